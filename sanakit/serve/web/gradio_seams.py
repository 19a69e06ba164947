"""All uses of Gradio's undocumented parts, so that a new release can break only this file.

Four seams: the inputs of an event before a function gets them, the routes that fetch files, the application
that a mounted page is, and its login. `tests/serve/web/test_gradio_seams.py` calls each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.routes import App
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send


class Lock:
    """The login of a mounted page, which Gradio looks at with every request."""

    def __init__(self, page: App) -> None:
        self._page = page

    @property
    def is_open(self) -> bool:
        """Whether the page asks for no login."""
        return self._page.auth is None

    def close(self, is_known: Callable[[str, str], bool]) -> None:
        """Ask for a login from now on. is_known: whether a name and a password belong together."""
        self._page.auth = is_known


def lock_of(app: FastAPI) -> Lock:
    """Return the lock of the page that `gr.mount_gradio_app` has put on an application."""
    mounted = (route.app for route in app.routes if isinstance(route, Mount))
    return Lock(next(found for found in mounted if isinstance(found, App)))


class Blocks(gr.Blocks):
    """Takes no file of another host from a visitor: Gradio would fetch it, of whatever size."""

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """Return the inputs of an event as its function takes them."""
        if _names_a_host(inputs):
            raise gr.Error("Files of other hosts are not fetched: upload the file.", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)


class NoFetching:
    """Refuses Gradio's routes that fetch a file from another host for whoever asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        path = scope.get("path", "")
        if scope["type"] == "http" and ("/proxy=" in path or "/file=http" in path):
            await PlainTextResponse("Files of other hosts are not fetched.", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _names_a_host(value: Any) -> bool:
    """Return whether a file's path, anywhere in a value of JSON, is an address."""
    if isinstance(value, list):
        return any(map(_names_a_host, value))
    if not isinstance(value, dict):
        return False
    path = value.get("path")
    return (isinstance(path, str) and "://" in path) or any(map(_names_a_host, value.values()))
