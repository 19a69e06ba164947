"""All uses of Gradio's undocumented parts, so that a new release can break only this file.

Six seams: the inputs of an event before a function gets them, what becomes of its errors, the routes that
fetch files, the application that a mounted page is, its login, and the end of its streams.
`tests/serve/web/test_gradio_seams.py` calls each of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable
from typing import Any, Literal

import gradio as gr
from fastapi import APIRouter, FastAPI, Request
from gradio.routes import App
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from sanakit.serve.web.messages import sentence_at

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.2  # seconds


class _Over(asyncio.Event):
    """An event that the open streams of a page wait for: the end of the server."""

    def __init__(self, over: threading.Event) -> None:
        super().__init__()
        self._over = over

    async def wait(self) -> Literal[True]:
        """Return when the server is stopping."""
        while not (self._over.is_set() or self.is_set()):
            await asyncio.sleep(_LOOK_EVERY)
        return True


class Lock:
    """The login of a mounted page, which Gradio looks at with every request."""

    def __init__(self, page: App) -> None:
        self._page = page

    @property
    def is_open(self) -> bool:
        """Whether the page asks for no login."""
        return self._page.auth is None

    def user(self, request: Request) -> str | None:
        """Return who is logged in, by the cookie that the login set; None: nobody."""
        for kind in ("access-token", "access-token-unsecure"):
            token = request.cookies.get(f"{kind}-{self._page.cookie_id}")
            if token and (name := self._page.tokens.get(token)) is not None:
                return name
        return None

    def close(self, is_known: Callable[[str, str], bool]) -> None:
        """Ask for a login from now on. is_known: whether a name and a password belong together."""
        self._page.auth = is_known


def lock_of(app: FastAPI) -> Lock:
    """Return the lock of the page that `gr.mount_gradio_app` has put on an application."""
    return Lock(_page_of(app))


def end_streams(app: FastAPI, over: threading.Event) -> None:
    """End the streams that every open page holds when the event is set: the server could not stop before."""
    _page_of(app).stop_event = _Over(over)


def _page_of(app: FastAPI) -> App:
    mounted = (route.app for route in app.routes if isinstance(route, Mount))
    return next(found for found in mounted if isinstance(found, App))


class Blocks(gr.Blocks):
    """Takes no file of another host from a visitor: Gradio would fetch it, of whatever size.

    What a visitor's events cannot be is refused in a sentence; Gradio would print a traceback for each.
    router: of what the page asks for beside its events.
    """

    router: APIRouter | None = None

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """Return the inputs of an event as its function takes them."""
        if _names_a_host(inputs):
            raise gr.Error("Files of other hosts are not fetched: upload the file.", print_exception=False)
        for field, value in zip(block_fn.inputs, inputs, strict=False):
            if isinstance(field, gr.Number | gr.Slider):
                # An event may have moved its ends for this visitor alone.
                _check_number(field if state is None else state.get(field._id, field), value)
        found = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        for place, (field, value) in enumerate(zip(block_fn.inputs, found, strict=True)):
            of_text = isinstance(field, gr.Textbox | gr.Radio | gr.Dropdown | gr.File)
            left_out = value is None and isinstance(field, gr.File)
            if value is None and isinstance(field, gr.Textbox):  # a browser sends it for an untouched field
                found[place] = ""
            elif of_text and not isinstance(value, str) and not left_out:
                raise TypeError(f"{field.label} is not a text")
        return found

    async def process_api(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Run an event. Its own function tells of our mistakes; all else that fails is what was sent."""
        try:
            return await super().process_api(*arguments, **options)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            log.warning("an event of the page was refused: %s", type(error).__name__)
            sentence = "The server does not understand what this page sent: reload the page."
            raise gr.Error(sentence, print_exception=False) from None


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


def _check_number(field: gr.Number | gr.Slider, value: Any) -> None:
    """Refuse a number that a field cannot hold, in a sentence that names the field."""
    if value is None and isinstance(field, gr.Number):  # empty, while a person types
        return
    low, high = field.minimum, field.maximum
    whole = isinstance(field, gr.Number) and field.precision == 0  # Gradio would round
    if (
        isinstance(value, int | float)
        and math.isfinite(value)
        and _within(value, low, high)
        and (not whole or float(value).is_integer())
    ):
        return
    told = ("" if low is None else f" from {low:.16g}") + ("" if high is None else f" to {high:.16g}")
    sentence = f"{field.label}: use a {'whole ' if whole else ''}number{told}."
    raise gr.Error(sentence_at(sentence, field), title="Not possible", print_exception=False)


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _names_a_host(value: Any) -> bool:
    """Return whether a file's path, anywhere in a value of JSON, is an address."""
    if isinstance(value, list):
        return any(map(_names_a_host, value))
    if not isinstance(value, dict):
        return False
    path = value.get("path")
    return (isinstance(path, str) and "://" in path) or any(map(_names_a_host, value.values()))
