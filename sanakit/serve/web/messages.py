"""Errors on the page: a sentence for the visitor, at the field that it refuses; our own mistakes in the log.

Gradio prints a traceback for every exception, whoever caused it, unless it is one of `gr.Error` that says no.

An error knows the setting that it refuses (`setting_of`), a panel calls the setting's component by the same
name. A status line or a message then names the component in `data-field`; `fields.js` marks it on the page,
puts the sentence there and brings it into view. Where the field is not shown, the line says it. Gradio's own
`gr.validate` would check every request twice, and tells only what is found before an event, at few kinds of
fields, without a word to screen readers.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import fields
from functools import partial, wraps
from html import escape
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path
from typing import Any

import gradio as gr

from sanakit.errors import SanaError

log = logging.getLogger(__name__)

Fields = Mapping[str, str]  # name of a setting -> where its field is, as of `place_of`

SCRIPT = Path(__file__).with_name("fields.js")


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


def place_of(component: Any) -> str:
    """Return where a component is: the ids of the accordions around it, then its own, parted by spaces.

    "": it has no id, such as the fields of endpoints.
    """
    if not component.elem_id:
        return ""
    ids, around = [component.elem_id], component.parent
    while around is not None:
        if isinstance(around, gr.Accordion) and around.elem_id:
            ids.insert(0, around.elem_id)
        around = around.parent
    return " ".join(ids)


def fields_of(*panels: Any, **others: Any) -> dict[str, str]:
    """Return the fields of panels, which are dataclasses of components with the settings' names.

    others: settings that are called otherwise there. The components must have been laid out.
    """
    found = {part.name: getattr(panel, part.name) for panel in panels for part in fields(panel)}
    placed = {
        name: place_of(one)
        for name, one in (found | others).items()
        if isinstance(one, gr.components.Component)
    }
    return {name: place for name, place in placed.items() if place}


def marking(place: str) -> str:
    """Return the attributes by which an element's text is told at a field; "" for no field.

    They differ each time: the same sentence is told again.
    """
    return f' data-field="{escape(place)}" data-told="{secrets.token_hex(4)}"' if place else ""


def sentence_at(sentence: str, component: Any) -> str:
    """Return a sentence as HTML of a message that is told at a component, if it has an id.

    Gradio leaves a message its classes, but no `data-field`.
    """
    classes = " ".join(f"at:{one}" for one in place_of(component).split())
    return (
        f'<span class="told-at {escape(classes)}">{escape(sentence)}</span>' if classes else escape(sentence)
    )


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
