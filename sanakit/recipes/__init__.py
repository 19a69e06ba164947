"""Recipes: what it takes to train a model, one file per model, or to make another model of a finished one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.train.loop import Progress

# name -> (module, function); in the order in which the stages of a model build on each other. A function that
# takes a `source` goes on from a finished model.
RECIPES = {
    "pocket-autoencoder": ("sanakit.recipes.pocket", "autoencoder"),
    "pocket-decoder": ("sanakit.recipes.pocket", "decoder"),
    "pocket-drawings": ("sanakit.recipes.pocket", "drawings"),
    "pocket-scenes": ("sanakit.recipes.pocket", "scenes"),
    "pocket-clip": ("sanakit.recipes.pocket_clip", "contrastive"),
    "pocket-judge": ("sanakit.recipes.pocket", "judge"),
    "pocket": ("sanakit.recipes.pocket", "pocket"),  # all of them
    "autoencoder": ("sanakit.recipes.autoencoder", "autoencoder"),
    "autoencoder-adapt": ("sanakit.recipes.autoencoder", "adapt"),
    "autoencoder-refine": ("sanakit.recipes.autoencoder", "refine"),
    "autoencoder-decoder": ("sanakit.recipes.autoencoder", "decoder"),
    "grow": ("sanakit.recipes.grow", "grow"),
    "prune": ("sanakit.recipes.prune", "prune"),
    "finetune": ("sanakit.recipes.finetune", "finetune"),
    "pretrain": ("sanakit.recipes.curriculum", "pretrain"),
    "enlarge": ("sanakit.recipes.curriculum", "enlarge"),
}


def start(
    name: str,
    *,
    data: Path,
    output: Path,
    steps: int | None = None,
    resume: bool = False,
    source: str | os.PathLike[str] | None = None,
    resolution: int | None = None,
    batch_size: int | None = None,
    smoke: bool = False,
    parallel: Literal["auto", "ddp", "fsdp"] | None = None,
) -> Iterator[Progress]:
    """Train a recipe and yield its progress; the result lies in `output` when the iterator ends.

    Started by torchrun, every process calls this, and the first one alone yields and writes.

    name: one of RECIPES. data: a data set as `sana data pocket` builds it; of recipes for pictures of your
    own, any place that `open_source` opens. output: the run's folder; earlier stages of the model are looked
    for beside it, under their recipe's name; `pocket`, `pretrain` and `enlarge` make a folder in it for each
    of their stages. steps: instead of the recipe's own. resume: go on from the folder's checkpoint.
    source: the finished model that a recipe goes on from, catalog name or folder; None: pocket, or nothing.
    resolution: in pixels; batch_size: of all processes; None: the recipe's own; for recipes that take them.
    smoke: two small steps of it, or of each of its stages, to see whether all of it runs.
    parallel: how several processes share the model (`train/parallel.py`); None: the recipe's own.
    Raises SettingsError for an unknown name, DataError without data or without the earlier stage.
    """
    if name not in RECIPES:
        raise SettingsError(f"There is no recipe {name!r}: choose one of {', '.join(RECIPES)}.")
    import torch.distributed as dist

    from sanakit.train.loop import train
    from sanakit.train.parallel import by_itself, processes
    from sanakit.train.pocket import MODEL, Run, Stage

    output = output.resolve()  # "." has neighbours, too
    module, function = RECIPES[name]
    make = getattr(import_module(module), function)
    asked = {"source": source, "resolution": resolution, "batch_size": batch_size, "smoke": smoke or None}
    given = {word: value for word, value in asked.items() if value is not None}
    for word in given.keys() - inspect.signature(make).parameters.keys():
        own = f"has a {word.replace('_', ' ')} of its own"
        why = {"source": "begins with nothing", "smoke": "has no short form"}.get(word, own)
        raise SettingsError(f"The recipe {name} {why}: leave the {word.replace('_', ' ')} out.")
    _refuse_old(output, resume)
    with processes() as share:
        made = make(data, output, steps, **given)
        for stage in [Stage(output, lambda folder: made)] if isinstance(made, Run) else made:
            if stage.folder != output and resume and (stage.folder / MODEL).is_dir():
                continue  # an earlier stage that is finished
            _refuse_old(stage.folder, resume)
            run = stage.make(stage.folder)
            config = run.config if parallel is None else replace(run.config, parallel=parallel)
            notes = run.notes
            for progress in train(run.objective, config, stage.folder, resume=resume):
                if share.rank == 0:
                    yield replace(progress, notes=(*notes, *progress.notes))
                notes = ()
            if share.rank == 0:
                with by_itself():
                    run.finish(stage.folder)
            del run  # its models, before those of the next stage are loaded
            if share.world > 1:
                dist.barrier()  # the next stage goes on from what rank 0 has written


def _refuse_old(folder: Path, resume: bool) -> None:
    """Raise SettingsError for a folder with a run in it that is not to be resumed."""
    from sanakit.train.checkpoint import has_checkpoint

    if has_checkpoint(folder) and not resume:
        raise SettingsError(f"{folder} holds a run already: go on with resume, or choose another output.")
