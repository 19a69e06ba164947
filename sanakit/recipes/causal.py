"""Make a model that streams, in four steps a chunk, of one of whole clips (LongSANA, arXiv:2509.24695).

Three stages: `chunks` (clips in chunks), `ode` (ends of the teacher's trajectories), `forcing` (self-forcing
with DMD). `causal` does all of them. Rates, betas, batch of the last stage, average, steps of the second and
all constants of the losses are the published ones. Ours are the length of the first and the last stage, the
mixture of times, the number of trajectories (CausVid's) and the batches for fewer GPUs. Smaller models have
settings for a CPU.

A model of worlds is taken, too, with clips along camera paths as of `sana train world`. Published are its
first stage's mixture and rate (`recipes/world.py`), and of the others rates, betas, steps, guidance, times of
the scores, and critic steps (SANA-WM's configurations). Batches and the average are LongSANA's. A world that
is trained in chunks needs no first stage.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sanakit.data.batches.clip_sampling import is_world
from sanakit.errors import SettingsError
from sanakit.recipes import world
from sanakit.recipes.finetune import PUBLISHED_WIDTH
from sanakit.train.config import TrainConfig
from sanakit.train.distill.dmd import Matching
from sanakit.train.objectives.clip_velocity import ClipMixing
from sanakit.train.objectives.self_forcing import CRITIC
from sanakit.train.objectives.world_velocity import WorldMixing
from sanakit.train.run import MODEL, Run, Stage
from sanakit.train.runs.causal.stages import chunks_run, forcing_run, ode_run
from sanakit.train.runs.causal.taught import CausalAim
from sanakit.weights.video.settings import (
    WORLD_CHUNKS,
    ChunkSettings,
    load_video_configs,
    load_video_settings,
    load_world_configs,
    load_world_settings,
)

StrPath = str | os.PathLike[str]

# Published: the fifth of the student's rate.
CRITIC_RATE = ((f"{CRITIC}.", 0.2),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The loops of the three stages, and their other settings."""

    chunks: TrainConfig
    ode: TrainConfig
    forcing: TrainConfig
    aim: CausalAim


_LARGE = TrainConfig(
    steps=10_000,
    batch_size=64,
    micro_batch=1,
    learning_rate=5e-5,
    warmup_steps=500,
    decay_fraction=0.0,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    clip_norm=0.1,
    ema_decay=0.999,
    bf16=True,
    recompute=True,
    log_every=10,
    evaluate_every=500,
    sheet_every=500,
    checkpoint_every=500,
)
PUBLISHED = Schedule(
    chunks=_LARGE,
    ode=replace(_LARGE, learning_rate=2e-5, clip_norm=1.0),
    forcing=replace(
        _LARGE,
        steps=6000,
        learning_rate=1e-5,
        rate_factors=CRITIC_RATE,
        warmup_steps=0,
        betas=(0.0, 0.999),
        clip_norm=1.0,
        ema_decay=0.99,
    ),
    aim=CausalAim(mixing=ClipMixing(in_chunks=1.0, alike=0.1, clean=0.3)),
)
_SMALL = TrainConfig(
    steps=2000,
    batch_size=16,
    micro_batch=16,
    learning_rate=2e-4,
    warmup_steps=50,
    betas=(0.9, 0.999),
    weight_decay=0.0,
    ema_decay=0.99,
    log_every=10,
    evaluate_every=250,
    sheet_every=250,
    checkpoint_every=100,
)
SMALL = Schedule(
    chunks=_SMALL,
    ode=_SMALL,
    forcing=replace(_SMALL, learning_rate=2e-5, rate_factors=CRITIC_RATE, warmup_steps=0, betas=(0.0, 0.999)),
    aim=CausalAim(
        chunks=ChunkSettings(length=2),
        mixing=ClipMixing(in_chunks=1.0, chunk=2, alike=0.1, clean=0.3),
        trajectories=256,
    ),
)
PUBLISHED_WORLD = Schedule(
    chunks=replace(world.PUBLISHED, batch_size=64),
    ode=replace(PUBLISHED.ode, steps=3000, weight_decay=0.01),
    forcing=replace(PUBLISHED.forcing, steps=3700, clip_norm=10.0),
    aim=CausalAim(
        chunks=WORLD_CHUNKS,
        mixing=WorldMixing(),
        shift=world.SHIFT,
        matching=Matching(guidance=3.0, shift=10.0, critic_steps=4),
    ),
)
SMALL_WORLD = replace(
    SMALL, aim=CausalAim(chunks=WORLD_CHUNKS, mixing=WorldMixing(), shift=None, trajectories=256)
)
OF_A_TRIAL = 4  # trajectories of a smoke test


def causal(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath | None = None,
    resolution: int | None = None,
    batch_size: int | None = None,
    smoke: bool = False,
) -> list[Stage]:
    """All three stages, from `source`, a model of whole clips. steps: of each, instead of its own.

    A world that is trained in chunks goes through the last two.
    """
    teacher = _named(source, "source")
    settings = {"resolution": resolution, "batch_size": batch_size, "smoke": smoke}
    own = partial(_run, data, steps=steps, teacher=teacher, cache=output / "cache", **settings)
    folders = {name: output / name for name in ("chunks", "ode", "forcing")}
    first = [Stage(folders["chunks"], partial(own, "chunks", source=teacher))]
    begun: StrPath = folders["chunks"] / MODEL
    if is_world(teacher) and load_world_configs(teacher)[0].causal:
        first, begun = [], teacher
    return [
        *first,
        Stage(folders["ode"], partial(own, "ode", source=begun)),
        Stage(folders["forcing"], partial(own, "forcing", source=folders["ode"] / MODEL)),
    ]


def chunks(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath | None = None,
    resolution: int | None = None,
    batch_size: int | None = None,
    smoke: bool = False,
) -> Run:
    """The first stage: `source`, a model of whole clips, learns clips in chunks."""
    settings = {"resolution": resolution, "batch_size": batch_size, "smoke": smoke}
    source = _named(source, "source")
    return _run(data, "chunks", output, steps=steps, source=source, teacher=source, **settings)


def ode(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath | None = None,
    teacher: StrPath | None = None,
    resolution: int | None = None,
    batch_size: int | None = None,
    smoke: bool = False,
) -> Run:
    """The second stage: `source`, the first one's result, learns the ends of its teacher's trajectories."""
    settings = {"resolution": resolution, "batch_size": batch_size, "smoke": smoke}
    settings |= {"source": _named(source, "source"), "teacher": _named(teacher, "teacher")}
    return _run(data, "ode", output, steps=steps, **settings)


def forcing(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath | None = None,
    teacher: StrPath | None = None,
    resolution: int | None = None,
    batch_size: int | None = None,
    smoke: bool = False,
) -> Run:
    """The third stage: `source`, the second one's result, learns from the clips that it draws."""
    settings = {"resolution": resolution, "batch_size": batch_size, "smoke": smoke}
    settings |= {"source": _named(source, "source"), "teacher": _named(teacher, "teacher")}
    return _run(data, "forcing", output, steps=steps, **settings)


def schedule_for(teacher: StrPath) -> Schedule:
    """Return the settings that suit a teacher's size; it is never guided more than it draws with."""
    if is_world(teacher):
        sizes, settings, kinds = (
            load_world_configs(teacher)[0],
            load_world_settings(teacher),
            (PUBLISHED_WORLD, SMALL_WORLD),
        )
    else:
        sizes, settings, kinds = (
            load_video_configs(teacher)[0],
            load_video_settings(teacher),
            (PUBLISHED, SMALL),
        )
    found = kinds[sizes.width < PUBLISHED_WIDTH]
    aim, matching = found.aim, found.aim.matching
    if is_world(teacher) and sizes.causal:  # its chunks are what it knows
        aim = replace(aim, chunks=replace(aim.chunks, length=settings.chunks.length))
    guidance = min(matching.guidance, settings.shared.guidance)
    return replace(found, aim=replace(aim, matching=replace(matching, guidance=guidance)))


def _run(
    data: Path,
    stage: str,
    output: Path,
    *,
    steps: int | None,
    source: StrPath,
    teacher: StrPath,
    resolution: int | None,
    batch_size: int | None,
    smoke: bool,
    cache: Path | None = None,
) -> Run:
    schedule = schedule_for(teacher)
    config: TrainConfig = getattr(schedule, stage)
    config = config.requested(steps, batch_size, smoke=smoke)
    aim = replace(schedule.aim, resolution=resolution, cache=cache)
    if smoke:
        aim = replace(aim, trajectories=OF_A_TRIAL, held_out=1)
    if stage == "chunks":
        return chunks_run(data, output, source, config, aim)
    return (ode_run if stage == "ode" else forcing_run)(data, output, source, teacher, config, aim)


def _named(model: StrPath | None, option: str) -> StrPath:
    if model is None:
        raise SettingsError(
            f"This recipe needs a model of clips or worlds: name one with --{option}, a folder or a Hub "
            "repository."
        )
    return model
