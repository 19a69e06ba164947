"""Errors of events: a sentence on the page for the visitor, and our own mistakes in the log.

Gradio prints a traceback for every exception, whoever caused it, unless it is one of `gr.Error` that says no.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial, wraps
from html import escape
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any

import gradio as gr

from sanakit.errors import SanaError
from sanakit.serve.web.fields import sentence_at

log = logging.getLogger(__name__)


def told(function: Callable[..., Any], spelled: Callable[[str], str] = escape) -> Callable[..., Any]:
    """Tell the errors of an event's function as messages.

    spelled: a sentence as it is shown: on the page as HTML; `str` where a program reads it.
    """
    if isasyncgenfunction(function):

        @wraps(function)  # Gradio reads in the signature what to hand over
        async def told_stream(*values: Any) -> AsyncIterator[Any]:
            with _telling(spelled):
                async with aclosing(function(*values)) as updates:
                    async for update in updates:
                        yield update

        return told_stream

    if iscoroutinefunction(function):

        @wraps(function)
        async def told_later(*values: Any, **named: Any) -> Any:
            with _telling(spelled):
                return await function(*values, **named)

        return told_later

    @wraps(function)
    def told_once(*values: Any) -> Any:
        with _telling(spelled):
            return function(*values)

    return told_once


def tie(event: Any, function: Any, inputs: list, outputs: list, *, at: Any = None, **options: Any) -> Any:
    """Tie a function to an event, without Gradio's own signs of progress or a public API; return the tie.

    at: the component whose value the function's errors refuse; None: they are told beside all fields.
    """
    spelled = escape if at is None else partial(sentence_at, component=at)
    function = told(function, spelled)
    return event(function, inputs, outputs, show_progress="hidden", api_visibility="private", **options)


@contextmanager
def _telling(spelled: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except SanaError as error:
        raise gr.Error(spelled(str(error)), title="Not possible", print_exception=False) from None
    except Exception:
        log.exception("an event of the page failed")
        sentence = "Something went wrong on the server; its log has details."
        raise gr.Error(sentence, print_exception=False) from None
