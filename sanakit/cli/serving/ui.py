"""`sana ui`: a page to draw on, in the browser, on this machine."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sanakit.cli.drawing.options import named_adapters, named_controls
from sanakit.cli.serving.serve import (
    Adapters,
    Controls,
    Device,
    Dtype,
    Filter,
    Host,
    KeepDays,
    Memory,
    Models,
    NoAuth,
)
from sanakit.cli.terminal import Debug
from sanakit.errors import MissingExtraError


def ui(
    model: Models = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")] = 7860,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the images; may be that of `sana serve`.")
    ] = Path("sana-data"),
    no_auth: NoAuth = False,
    memory: Memory = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    keep_days: KeepDays = None,
    adapter: Adapters = None,
    control: Controls = None,
    filter: Filter = False,
    open_page: Annotated[
        bool | None,
        typer.Option("--open/--no-open", show_default="where there is a screen", help="Open the browser."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw in the browser, from words or with a brush.

    Everything stays on this machine; nothing is asked of other hosts. The API of `sana serve` is there, too.
    Ctrl-C stops.
    """
    print("Starting; this takes some seconds.", file=sys.stderr, flush=True)
    # Before Gradio is imported: it would else ask its maker's server for news.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "0")
    try:
        from sanakit.serve.server import HttpSettings, ModelNames, ServerSettings, serve
        from sanakit.serve.web.mount import add_page
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "gradio", "ui") from None

    settings = ServerSettings(
        models=tuple(model or ["pocket"]),
        host=host,
        port=port,
        data=data,
        device=device,
        dtype=dtype,
        memory=memory,
        keep_days=keep_days,
        adapters=named_adapters(adapter),
        controls=named_controls(control),
        drain=0.0,  # who presses Ctrl-C is the one who draws
        image_filter=filter,
        door=HttpSettings(no_auth=no_auth, previews=not filter),
    )
    wanted = _has_screen() if open_page is None else open_page

    def announce(address: str, models: ModelNames) -> None:
        print(f"Draw with {', '.join(models.all)} at {address}\nCtrl-C stops.", flush=True)
        if wanted:
            webbrowser.open(address)

    if serve(settings, announce, extend=add_page) is not None:
        raise KeyboardInterrupt  # the command line says so in a line, and with its own exit code


def _has_screen() -> bool:
    """Return whether a person is at this machine and a browser can open a window."""
    desktop = sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))
    return desktop and sys.stdout is not None and sys.stdout.isatty()
