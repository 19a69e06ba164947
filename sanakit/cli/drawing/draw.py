"""`sana draw`: prompt after prompt, with the model kept loaded.

Lines come from a terminal, with a history, or from a pipe; `session.py` does what they say. Ctrl-C stops a
drawing but not the program, Ctrl-D ends it. torch is imported inside the functions, as in `generate.py`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sanakit.cli.drawing import options as option
from sanakit.cli.drawing.display import display, show_image
from sanakit.errors import OutputError, SanaError

if TYPE_CHECKING:
    from sanakit.cli.drawing.session import Session

SIGN = "sana> "
MOST_LINES = 1000  # of the history
WRONG = 2


def draw(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the numbered images go.")
    ] = Path(),
    model: option.Model = "pocket",
    negative: option.Negative = "",
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", show_default=option.OWN, help="Pixels, such as 256x192."),
    ] = None,
    steps: option.Steps = None,
    guidance: option.Guidance = None,
    solver: option.Solver = None,
    seed: option.Seed = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "auto",
    memory: option.Memory = "auto",
    plan: option.Plan = None,
    adapter: option.Adapters = None,
    preview: Annotated[
        bool, typer.Option("--preview/--no-preview", help="Show the images in the terminal.")
    ] = True,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Draw prompt after prompt, with the model kept loaded.

    Type a prompt, or a command: /again, /edit PROMPT, /undo, /seed N, /size WxH, /steps N, /help, /quit. From
    a pipe, each line is one. Ctrl-C stops a drawing, Ctrl-D ends.
    """
    folder = output.expanduser()
    if not os.path.isdir(folder):
        raise OutputError(f"The folder {folder} does not exist: create it first or choose another one.")
    chosen = option.parse_adapters(adapter)
    with display(preview=False):
        from sanakit.cli.drawing.session import Session
        from sanakit.images.image import parse_size
        from sanakit.pipelines.request import check_request
        from sanakit.pipelines.text_to_image import TextToImage

        width, height = parse_size(size) if size is not None else (None, None)
        loading = {"device": device, "dtype": dtype, "memory": memory, "plan": plan}
        pipe = TextToImage.from_pretrained(model, **loading, adapters=chosen, encoder=True)  # pyright: ignore
        settings = {"width": width, "height": height, "steps": steps, "guidance": guidance, "solver": solver}
        check_request(pipe.spec, "", negative, seed=seed, **settings)  # pyright: ignore
    session = Session(
        pipe, folder, _tell, lambda: display(preview=False, first="reading"), settings, negative, seed
    )
    with _history() if sys.stdin.isatty() else nullcontext():
        fine = run(session, _typed if sys.stdin.isatty() else _piped, preview=preview)
    if not fine:
        raise typer.Exit(WRONG)


def run(session: Session, read: Callable[[], str | None], *, preview: bool = False) -> bool:
    """Answer line after line until they end or one says so; return whether all could be done.

    read: returns the next line; None: there is none. preview: show each image in the terminal. A mistake is
    told and the next line is read. Ctrl-C stops what a line has begun; from a pipe, all.
    """
    fine, typed = True, sys.stdin.isatty()
    while True:
        before = len(session.images)
        try:
            line = read()
            with warnings.catch_warnings(action="ignore"):  # the result tells them
                if line is None or not session.answer(line):
                    return fine or typed
            if preview and len(session.images) > before:
                show_image(session.images[-1].image)
        except SanaError as error:
            fine = False
            print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
        except KeyboardInterrupt:
            if not typed:
                raise
            print("Stopped. /quit ends.", file=sys.stderr)


def _tell(text: str) -> None:
    told = sys.stderr if text.startswith("Warning: ") else sys.stdout
    print(text, file=told, flush=True)


def _piped() -> str | None:
    return sys.stdin.readline() or None


def _typed() -> str | None:
    try:
        return input(SIGN)
    except EOFError:
        print(file=sys.stderr)
        return None


@contextmanager
def _history() -> Iterator[None]:
    """Have typed lines edited, completed, and found again, now and in later sessions."""
    print("Type a prompt, /help for commands, Ctrl-D to end.", file=sys.stderr)
    try:
        import readline
    except ImportError:  # Windows has none
        yield
        return
    from sanakit.cli.drawing.session import completions

    place = history_file(os.environ)
    readline.set_completer(lambda text, number: [*completions(text), None][number])
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    with suppress(OSError):
        readline.read_history_file(place)
    try:
        yield
    finally:
        readline.set_history_length(MOST_LINES)
        with suppress(OSError):  # a home that cannot be written to keeps no history
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch(mode=0o600)
            readline.write_history_file(place)


def history_file(environment: Mapping[str, str]) -> Path:
    """Return where lines of earlier sessions are kept: below XDG_STATE_HOME or ~/.local/state."""
    home = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "sanakit" / "draw_history"
