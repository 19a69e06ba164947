"""The page of `sana ui` on an application: beside the API, or alone as in a Hugging Face Space.

Nothing here asks another host for anything, and nothing is served but the page's own files and what was drawn
or uploaded on it. The page itself is `web_page.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sanakit.errors import SettingsError
from sanakit.serve.access import Caller
from sanakit.serve.engine import Engine
from sanakit.serve.failures import FailureError
from sanakit.serve.jobs import JobStore
from sanakit.serve.keys import Key, KeyStore
from sanakit.serve.service import Service
from sanakit.serve.storage import PictureStore
from sanakit.serve.web_history import History
from sanakit.serve.web_page import Page
from sanakit.serve.web_style import CSS, JS, theme

MAX_UPLOAD = 20_000_000  # bytes
MOST_WAITING = 64  # events of all visitors that wait for their turn
KEEP_COPIES = (600, 3600)  # seconds: how often Gradio's cache is looked through, and when a copy is old


def build_page(
    engine: Engine,
    store: PictureStore,
    jobs: JobStore | None = None,
    *,
    private: bool = False,
    charge: Callable[[str, int], None] | None = None,
) -> gr.Blocks:
    """Give the page.

    store: where the pictures are kept. jobs: whose pictures are shown in the gallery, too. private: each
    visitor sees only what was drawn in this tab; for pages that strangers share. charge: called with who is
    logged in and a number of pictures before they are drawn; raises SanaError if it is too many.
    """
    page = Page(engine, History(store, jobs), private=private, charge=charge)
    with gr.Blocks(
        title="sanakit", analytics_enabled=False, fill_width=True, delete_cache=KEEP_COPIES
    ) as blocks:
        page.lay_out()
    blocks.unload(page.cancel)
    return blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=8, api_open=False)


def mount_page(app: FastAPI, blocks: gr.Blocks, path: str = "/", **options: Any) -> FastAPI:
    """Put the page on an application that may hold the API already; gives the application back.

    options: of `gr.mount_gradio_app`, such as `auth` or `root_path`.
    """
    app.add_middleware(_NoFetching)
    return gr.mount_gradio_app(
        app,
        blocks,
        path,
        theme=theme(),
        css_paths=CSS,
        js=JS,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        **options,
    )


def add_page(app: FastAPI) -> None:
    """Put the page beside the API that `create_app` made: the same engine, pictures and door.

    Where the API needs a key, the page has a login: the key's name, and the key as password. Pictures are
    then kept by key, and count for its limits. Else, what this machine alone can reach has one gallery.
    """
    service: Service = app.state.service
    settings, keys = service.settings, KeyStore(service.jobs.database)
    if settings.local:  # by a name of its own, a foreign page could reach what listens here (DNS rebinding)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    locked = not settings.no_auth and not (settings.local and not keys.list())

    def is_known(name: str, token: str) -> bool:
        key = keys.verify(token.strip())
        return key is not None and key.name == name

    def charge(name: str, pictures: int) -> None:
        _charge(
            service,
            next((key for key in keys.list() if key.name == name and not key.revoked), None),
            pictures,
        )

    blocks = build_page(
        service.engine,
        service.store,
        service.jobs,
        private=not settings.local,
        charge=charge if locked else None,
    )
    login = {"auth": is_known, "auth_message": "Your key's name, and the key."} if locked else {}
    mount_page(app, blocks, **login)


def _charge(service: Service, key: Key | None, pictures: int) -> None:
    if key is None:
        raise SettingsError("This key was revoked: log in with another one.")
    try:
        service.access.charge(Caller(key), pictures)
    except FailureError as error:
        raise SettingsError(error.failure.message) from None


class _NoFetching:
    """Refuses Gradio's routes that fetch a file from another host for whoever asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and ("/proxy=" in path or "/file=http" in path):
            await PlainTextResponse("Files of other hosts are not fetched.", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
