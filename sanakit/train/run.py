"""A training run: a recipe's result, starting it, and reading its final checkpoint."""

from __future__ import annotations

import difflib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from sanakit.alone import alone_in
from sanakit.errors import DataError, SettingsError, WeightsError
from sanakit.models.compiled import has_compiler
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana
from sanakit.ops.torch_private import compile_at_least
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import Parallel, TrainConfig, check_above_zero
from sanakit.train.distributed.parallel import by_itself, processes
from sanakit.train.loop import train
from sanakit.train.objective import Objective
from sanakit.train.objectives.velocity import TEXT, TRANSFORMER, VelocityObjective
from sanakit.train.record import NOTHING, MadeWith, check_source, record_run
from sanakit.train.report import SHEETS, Progress
from sanakit.train.state.average import part_of
from sanakit.train.state.checkpoint import has_checkpoint, load_average
from sanakit.whole import sweep

MODEL = "model"  # folder of the finished model inside a run
# Of each block: sizes of images times lengths of texts, with and without gradients, as they come.
SHAPES_COMPILED = 64
# Settings of recipes that train adapters, and their options.
OF_ADAPTERS = {
    **{"rank": "rank", "caption": "caption", "repeats": "repeat", "class_prompts": "class-prompt"},
    **{"judge": "judge", "plan": "plan"},
}
# Those of recipes that learn from a reward.
OF_REWARDS = {"rewards": "reward", "algorithm": "algorithm", "whole": "whole"}
# Reasons why a recipe takes none of these settings.
REFUSED = {
    "source": "begins with nothing",
    "smoke": "has no short form",
    "teacher": "learns from no other model",
    "autoencoder": "takes no autoencoder of another run",
}
log = logging.getLogger(__name__)

Recipes = Mapping[str, tuple[str, str]]
"""Recipes by name: (module, function). A function that takes a `source` goes on from a finished model."""


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe made concrete: objective, settings, export of the result, and what it is made with."""

    objective: Objective
    config: TrainConfig
    finish: Callable[[Path], None]
    notes: tuple[str, ...] = ()  # sentences to be told with the first progress
    made_with: MadeWith = NOTHING


@dataclass(frozen=True, slots=True)
class Stage:
    """One of several runs that build on each other, made when its turn comes, in its own folder."""

    folder: Path
    make: Callable[[Path], Run]  # takes the folder


def run_recipe(
    name: str,
    recipes: Recipes,
    *,
    data: Path,
    output: Path,
    steps: int | None = None,
    resume: bool = False,
    source: str | os.PathLike[str] | None = None,
    resolution: int | None = None,
    batch_size: int | None = None,
    smoke: bool = False,
    parallel: Parallel | None = None,
    more: Mapping[str, Any] | None = None,
) -> Iterator[Progress]:
    """Train a recipe and yield its progress; the result lies in `output` when the iterator ends.

    Under torchrun every process calls this; only the first one yields and writes.

    name: one of `recipes`, such as `sanakit.recipes.RECIPES`. data: the recipe's data set; for recipes on
    your own images, anything that `open_source` opens. output: the run's folder; earlier stages are expected
    beside it, under their recipe's name; a recipe of several stages makes a folder in it for each. steps:
    replaces the recipe's number. resume: continue from the folder's checkpoint. source: the finished model to
    start from, catalog name or folder; None: the recipe's.
    resolution: in pixels; batch_size: of all processes; None: the recipe's own; for recipes that take them.
    smoke: only two small steps of it, or of each stage, as a check. more: settings that few recipes take, by
    the names of their parameters, and `learning_rate`, which replaces that of any recipe of one stage
    (`TrainConfig.at`).
    parallel: how several processes share the model (`train/distributed/parallel.py`); None: the recipe's own.
    Each run's folder gets config.json (`train/record.py`); a resumed run tells what differs from it.
    Raises SettingsError for an unknown name, and for a source of other weights than the resumed run began
    with; DataError without data or without the earlier stage; OutputError while another process trains into
    `output`.
    """
    if name not in recipes:
        near = difflib.get_close_matches(name.lower(), recipes, n=1)
        meant = "".join(f"did you mean {one}? `sana train --help` shows all." for one in near)
        told = meant or f"choose one of {', '.join(recipes)}."
        raise SettingsError(f"There is no recipe {name!r}: {told}")
    output = output.resolve()  # "." has neighbours, too
    module, function = recipes[name]
    make = getattr(import_module(module), function)
    taken = inspect.signature(make).parameters
    asked = {"source": source, "resolution": resolution, "batch_size": batch_size, "smoke": smoke or None}
    asked |= more or {}
    if (rate := asked.pop("learning_rate", None)) is not None:
        check_above_zero(learning_rate=rate)  # before anything is loaded
    given = {word: value for word, value in asked.items() if value is not None}
    for word in given.keys() - taken.keys():
        option = (OF_ADAPTERS | OF_REWARDS).get(word, word).replace("_", "-")
        own = f"has a {option.replace('-', ' ')} of its own"
        why = REFUSED.get(word, own)
        if word in OF_ADAPTERS:
            why = f"takes no {option}" if "rank" in taken else "trains no adapter"
        elif word in OF_REWARDS and "algorithm" not in taken:
            why = "learns from no reward"
        raise SettingsError(f"The recipe {name} {why}: omit --{option}.")
    _refuse_old(output, resume)
    if os.path.isdir(data) and output.is_relative_to(os.path.realpath(data)):
        raise SettingsError(
            f"{output} lies in the data set, and what a training writes would be read as data: choose "
            "another --output."
        )
    begins_with = given.get("source", taken["source"].default if "source" in taken else None)
    if begins_with is not None and any(map(has_checkpoint, (output, *output.glob("*/")))):
        check_source(output, begins_with)
    with processes() as share, ExitStack() as held:
        if share.rank == 0:
            held.enter_context(alone_in(output))
        made = make(data, output, steps, **given)
        if not isinstance(made, Run):
            if rate is not None:
                raise SettingsError(
                    f"The stages of the recipe {name} have learning rates of their own: omit --learning-rate."
                )
            record_run(output, name, None, MadeWith(source=begins_with, data=data))
        for stage in [Stage(output, lambda folder: made)] if isinstance(made, Run) else made:
            if stage.folder != output and resume and (stage.folder / MODEL).is_dir():
                continue  # an earlier stage that is finished
            _refuse_old(stage.folder, resume)
            run = stage.make(stage.folder)
            config = run.config if rate is None else run.config.at(rate)
            config = config if parallel is None else replace(config, parallel=parallel)
            changes = record_run(stage.folder, name, config, run.made_with)
            notes = (*changes, *run.notes)
            trained = False
            for progress in train(run.objective, config, stage.folder, resume=resume):
                if share.rank == 0:
                    yield replace(progress, notes=(*notes, *progress.notes))
                notes, trained = (), True
            if share.rank == 0:
                if not trained:
                    for change in changes:
                        log.warning(change)
                with by_itself():
                    run.finish(stage.folder)
                for place in (stage.folder, stage.folder / SHEETS):
                    sweep(place)  # of killed processes
            del run  # its models, before those of the next stage are loaded
            if share.world > 1:
                dist.barrier()  # the next stage continues from what rank 0 has written


def averaged_weights(run: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a run's checkpoint. Raises DataError if it has none."""
    average = load_average(run)
    if average is None:
        raise DataError(
            f"{run} holds no checkpoint: train {run.name} first, with its --output beside this run's."
        )
    return average


def fill_averaged(
    module: nn.Module, run: Path, part: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
) -> None:
    """Load the averaged weights of a run's checkpoint into a module.

    part: picks the module's own among them. Raises as `averaged_weights` does, and WeightsError for those of
    another model.
    """
    found, needed = part(averaged_weights(run)), module.state_dict()
    sizes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (found, needed)]
    if sizes[0] != sizes[1]:
        which = min(name for name in found.keys() | needed.keys() if sizes[0].get(name) != sizes[1].get(name))
        came, wanted = (state.get(which, "missing") for state in sizes)
        raise WeightsError(
            f"The checkpoint in {run} is of another model ({which}: {came} instead of {wanted}): use the run "
            "of the same recipe and settings, or train it again in another folder."
        )
    module.load_state_dict(found)


def averaged_parts(run: Path, objective: VelocityObjective) -> tuple[Sana, TextEncoder]:
    """Return a run's transformer and text encoder with its averaged weights.

    They are a new module: the trained one may be sharded (FSDP2) and cannot take whole weights.
    """
    encoder = objective.encoder
    transformer = Sana(objective.transformer.config)
    fill_averaged(transformer, run, partial(part_of, name=TRANSFORMER))
    if not objective.train_text:
        return transformer, encoder
    text = Gemma2(encoder.model.config)
    fill_averaged(text, run, partial(part_of, name=TEXT))
    words = (encoder.tokenizer, encoder.instruction, encoder.max_tokens)
    return transformer, TextEncoder(text, *words, dialect=encoder.dialect)


def compile_blocks(transformer: Sana) -> None:
    """Let torch.compile fuse the blocks if its compiler is there; otherwise leave them as they are."""
    if has_compiler(next(transformer.parameters()).device):
        compile_at_least(SHAPES_COMPILED, len(transformer.blocks))
        for block in transformer.blocks:
            block.compile(dynamic=False)


def _refuse_old(folder: Path, resume: bool) -> None:
    """Raise SettingsError for a folder with a run in it that is not to be resumed."""
    if has_checkpoint(folder) and not resume:
        raise SettingsError(
            f"{folder} already holds a run: continue it with --resume, or choose another --output."
        )
