"""The option --adapter, of the commands that draw."""

from __future__ import annotations

import math
import os
from typing import Annotated

import typer

from sanakit.errors import SettingsError

Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FILE[:WEIGHT]",
        show_default="none",
        help="LoRA file and its weight, 1 if left out; repeat it for several.",
    ),
]


def named_adapters(texts: list[str] | None) -> dict[str, str]:
    """Return names of adapters and their files from "NAME=FILE". Raises SettingsError.

    >>> named_adapters(["style=loras/style.safetensors"])
    {'style': 'loras/style.safetensors'}
    """
    found: dict[str, str] = {}
    for text in texts or []:
        name, _, file = text.partition("=")
        if not name or not file:
            raise SettingsError(f"--adapter {text}: write NAME=FILE; requests choose by these names.")
        if name in found:
            raise SettingsError(f"--adapter {text}: the name {name!r} is given twice; choose another one.")
        found[name] = file
    return found


def parse_adapters(texts: list[str] | None) -> list[tuple[str, float]]:
    """Return files of adapters and their weights from "FILE" or "FILE:WEIGHT". Raises SettingsError.

    >>> parse_adapters(["style.safetensors:0.8", "C:/cat.safetensors", "old.safetensors:-1"])
    [('style.safetensors', 0.8), ('C:/cat.safetensors', 1.0), ('old.safetensors', -1.0)]
    """
    found = []
    for text in texts or []:
        file, colon, weight = text.rpartition(":")
        try:
            number = float(weight) if colon else math.nan
        except ValueError:
            number = math.nan
        if not file or os.path.exists(os.path.expanduser(text)):  # a name may hold a colon itself
            found.append((text, 1.0))
        elif math.isfinite(number):
            found.append((file, number))
        elif os.path.exists(os.path.expanduser(file)) or not weight:
            raise SettingsError(
                f"--adapter {text}: the weight {weight!r} is not a number; write FILE:0.8, or FILE alone."
            )
        else:
            found.append((text, 1.0))
    return found
