"""Recipes: what it takes to train a model, one file per model."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.train.loop import Progress

# name -> (module, function); in the order in which the stages of a model build on each other
RECIPES = {
    "pocket-autoencoder": ("sanakit.recipes.pocket", "autoencoder"),
    "pocket-decoder": ("sanakit.recipes.pocket", "decoder"),
    "pocket": ("sanakit.recipes.pocket", "flow_matching"),
}


def start(
    name: str, *, data: Path, output: Path, steps: int | None = None, resume: bool = False
) -> Iterator[Progress]:
    """Train a recipe and yield its progress; the result lies in `output` when the iterator ends.

    name: one of RECIPES. data: a data set as `sana data pocket` builds it. output: the run's folder;
    earlier stages of the model are looked for beside it, under their recipe's name. steps: instead of the
    recipe's own. resume: go on from the folder's checkpoint.
    Raises SettingsError for an unknown name, DataError without data or without the earlier stage.
    """
    if name not in RECIPES:
        raise SettingsError(f"There is no recipe {name!r}: choose one of {', '.join(RECIPES)}.")
    from sanakit.train.checkpoint import has_checkpoint
    from sanakit.train.loop import train

    if has_checkpoint(output) and not resume:
        raise SettingsError(f"{output} holds a run already: go on with resume, or choose another output.")
    output = output.resolve()  # "." has neighbours, too
    module, function = RECIPES[name]
    run = getattr(import_module(module), function)(data, output, steps)
    yield from train(run.objective, run.config, output, resume=resume)
    run.finish(output)
