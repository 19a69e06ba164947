"""The axes of a grid: settings whose values are typed as a list, and the wish of each cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sanakit.errors import SettingsError, of_setting
from sanakit.images.settings import GRID
from sanakit.serve.web.settings import Wish, parse_seed

NOTHING = "Nothing"
MOST_VALUES = 12  # of an axis
MOST_CELLS = 36
MOST_TEXT = 2000  # characters of a list
_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")  # of whole numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A setting that changes along a side. name: as the page calls it. values: as they were typed."""

    name: str
    values: tuple[str, ...]

    @property
    def setting(self) -> str:
        """The setting's name as errors tell it; "" for nothing."""
        return _ERRORS_NAME.get(self.name, "")

    @property
    def labels(self) -> list[str]:
        """The texts beside the rows or above the columns."""
        return [f"{self.name}: {value}" if self.name != NOTHING else "" for value in self.values]


def _steps(wish: Wish, text: str) -> Wish:
    return replace(wish, steps=_whole("Steps", text))


def _guidance(wish: Wish, text: str) -> Wish:
    return replace(wish, guidance=_number("Guidance", text))


def _kind(wish: Wish, text: str) -> Wish:
    return replace(wish, guidance_kind=text)


def _seed(wish: Wish, text: str) -> Wish:
    parse_seed(text)
    return replace(wish, seed=text)


def _solver(wish: Wish, text: str) -> Wish:
    return replace(wish, solver=text)


def _negative(wish: Wish, text: str) -> Wish:
    return replace(wish, negative_prompt=text)


def _prompt(wish: Wish, text: str) -> Wish:
    return replace(wish, prompt=text)


def _control_scale(wish: Wish, text: str) -> Wish:
    scale = _number("Control strength", text)
    return replace(wish, control=[{**one, "scale": scale} for one in wish.control])


# Name on the page -> how a value is set in a wish. Lists of kinds and texts are parted by ";".
SETTINGS: Mapping[str, Callable[[Wish, str], Wish]] = {
    "Steps": _steps,
    "Guidance": _guidance,
    "Guidance kind": _kind,
    "Seed": _seed,
    "Solver": _solver,
    "What not to draw": _negative,
    "Prompt": _prompt,
    "Control strength": _control_scale,
}
_ERRORS_NAME = {
    **{"Steps": "steps", "Guidance": "guidance", "Guidance kind": "guidance_kind", "Seed": "seed"},
    **{"Solver": "solver", "What not to draw": "negative_prompt", "Prompt": "prompt"},
    "Control strength": "control_scale",
}
_OF_TEXT = ("Guidance kind", "What not to draw", "Prompt")  # whose values hold commas
_OF_RANGES = ("Steps", "Seed")


def read_axis(name: str, text: str) -> Axis:
    """Return an axis from a typed list; of nothing one cell without a label. Raises SettingsError.

    Values are parted by commas, those of texts by semicolons; 1-4 stands for 1, 2, 3, 4.
    """
    if name == NOTHING:
        return Axis(name=name, values=("",))
    if name not in SETTINGS:
        raise SettingsError(f"A grid has no axis {name[:50]!r}: use {', '.join(SETTINGS)}.")
    parted = text[:MOST_TEXT].split(";" if name in _OF_TEXT else ",")
    values: list[str] = []
    for one in (part.strip() for part in parted):
        ranged = _RANGE.fullmatch(one) if name in _OF_RANGES else None
        if ranged is None:
            values += [one] if one else []
            continue
        first, last = int(ranged[1]), int(ranged[2])
        if not first <= last < first + MOST_VALUES:
            raise SettingsError(
                f"The values {one!r} of {name} are not a rising range of at most {MOST_VALUES}: shorten it."
            )
        values += map(str, range(first, last + 1))
    values = [*dict.fromkeys(values)]
    if not 1 <= len(values) <= MOST_VALUES:
        part = "semicolons" if name in _OF_TEXT else "commas"
        raise SettingsError(
            f"{name} has {len(values)} values in the grid: write 1 to {MOST_VALUES}, parted by {part}."
        )
    return Axis(name=name, values=tuple(values))


def cells_of(wish: Wish, across: Axis, down: Axis) -> list[Wish]:
    """Return the wish of each cell, row by row, one image each. Raises SettingsError for a wrong value."""
    if across.name == down.name == NOTHING:
        raise SettingsError("A grid of nothing has one image: choose a setting for it.", setting="across")
    if across.name == down.name:
        sentence = f"{across.name} is on both sides of the grid: choose two different settings."
        raise SettingsError(sentence, setting="down")
    if len(across.values) * len(down.values) > MOST_CELLS:
        size = f"{len(across.values)} x {len(down.values)}"
        sentence = f"{size} images are too many: a grid has at most {MOST_CELLS}."
        raise SettingsError(sentence, setting="across_values")
    if "Control strength" in (across.name, down.name) and not wish.control:
        sentence = "Control strength changes nothing without a ControlNet: choose one first."
        raise SettingsError(sentence, setting="across" if across.name == "Control strength" else "down")
    with of_setting("down_values"):
        rows = [_set(replace(wish, num_images=1), down.name, value) for value in down.values]
    with of_setting("across_values"):
        return [_set(row, across.name, value) for row in rows for value in across.values]


def _set(wish: Wish, name: str, text: str) -> Wish:
    return wish if name == NOTHING else SETTINGS[name](wish, text)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise SettingsError(f"{name}: {text[:40]!r} in the grid is not a whole number: change it.")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"{name}: {text[:40]!r} in the grid is not a number: change it.") from None


def recorded(axes: Sequence[Axis]) -> dict[str, Any]:
    """Return what a sheet's file says of its axes, by our names."""
    return {key: f"{axis.name}: {'; '.join(axis.values)}" for key, axis in zip(GRID, axes, strict=True)}
