"""Nodes as ComfyUI calls them."""

from __future__ import annotations

from typing import Any

from sanakit.comfy import NODE_CLASS_MAPPINGS

SMALL = {"width": 64, "height": 64, "steps": 2}


class Stopped(Exception):
    """What ComfyUI raises."""


def inputs(node: type) -> dict[str, tuple]:
    declared = node.INPUT_TYPES()
    return {**declared["required"], **declared.get("optional", {})}


def call(key: str, *args: Any, **given: Any) -> tuple:
    """Call a node as ComfyUI does: by its FUNCTION, with what the widgets hold where nothing else is said."""
    node = NODE_CLASS_MAPPINGS[key]
    values = {name: kind[1]["default"] for name, kind in inputs(node).items() if "default" in kind[-1]}
    required = [name for name in inputs(node) if name not in values]
    values |= dict(zip(required, args, strict=False)) | given
    return getattr(node(), node.FUNCTION)(**values)
