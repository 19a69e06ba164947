"""Refused settings, told at their own fields: which field that is, and how a message names it.

An error knows the setting that it refuses (`setting_of`), a panel calls the setting's component by the same
name. A status line or a message then names the component in `data-field`; `fields.js` marks it on the page,
puts the sentence there and brings it into view. Where the field is not shown, the line says it.

Gradio's own `gr.validate` would check every request twice, and tells only what is found before an event, at
few kinds of fields, without a word to screen readers.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

Fields = Mapping[str, str]  # name of a setting -> where its field is, as of `place_of`

SCRIPT = Path(__file__).with_name("fields.js")


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
