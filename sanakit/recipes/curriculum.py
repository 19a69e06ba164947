"""From small images to large ones: phases of growing resolution, each continuing from the one before.

`pretrain` begins with new weights of the transformer, in the latents and with the text encoder of a finished
model. `enlarge` continues from a finished model to the resolutions above its own. Both end at `resolution`.
The steps of SANA's resolutions (256, 512, 1024, 2K, 4K) and their rate are published; steps and batch sizes
are ours: what one does on many GPUs is a matter of how many.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sanakit.errors import SettingsError
from sanakit.recipes.finetune import WORKERS, settings_for
from sanakit.train.run import MODEL, Run, Stage
from sanakit.train.runs.finetune import Aim, finetune_run
from sanakit.weights import load_configs, load_settings

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolutionPhase:
    """One resolution of the curriculum."""

    resolution: int  # pixels
    steps: int
    batch_size: int  # of all processes
    learning_rate: float
    positions: bool = False  # from here on, for a model that has none yet: a large grid needs them
    flow_shift: float | None = None  # from here on; None: as it was


PHASES = (
    ResolutionPhase(resolution=256, steps=100_000, batch_size=1024, learning_rate=1e-4),
    ResolutionPhase(resolution=512, steps=100_000, batch_size=1024, learning_rate=1e-4),
    ResolutionPhase(resolution=1024, steps=50_000, batch_size=512, learning_rate=1e-4),
    ResolutionPhase(resolution=2048, steps=20_000, batch_size=64, learning_rate=1e-4, positions=True),
    ResolutionPhase(
        resolution=4096, steps=20_000, batch_size=32, learning_rate=1e-4, positions=True, flow_shift=6.0
    ),
)


def pretrain(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    resolution: int | None = None,
) -> list[Stage]:
    """Train a transformer of `source`'s size from nothing, up to `resolution` or that of `source`.

    steps: of each phase, instead of its own.
    """
    most = own_resolution(source) if resolution is None else resolution
    phases = [phase for phase in PHASES if phase.resolution <= most]
    if not phases:
        raise SettingsError(
            f"The first phase has {PHASES[0].resolution} px, more than {most}: "
            "use a larger resolution, or change PHASES in the recipe."
        )
    return _stages(data, output, source, phases, steps, fresh=True)


def enlarge(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    resolution: int | None = None,
) -> list[Stage]:
    """Train `source` at the resolutions above its own, up to `resolution` or the next one.

    steps: of each phase, instead of its own.
    """
    own = own_resolution(source)
    above = [phase for phase in PHASES if phase.resolution > own]
    phases = above[:1] if resolution is None else [p for p in above if p.resolution <= resolution]
    if not phases:
        raise SettingsError(
            f"{source} was trained at {own} px, and no phase lies between that and {resolution or 'more'}: "
            f"the phases are {', '.join(str(phase.resolution) for phase in PHASES)} px."
        )
    return _stages(data, output, source, phases, steps, fresh=False)


def own_resolution(source: StrPath) -> int:
    """Side in pixels that a model was trained at."""
    transformer, autoencoder = load_configs(source)
    return transformer.sample_size * autoencoder.compression


def _stages(
    data: Path,
    output: Path,
    source: StrPath,
    phases: list[ResolutionPhase],
    steps: int | None,
    *,
    fresh: bool,
) -> list[Stage]:
    name = load_settings(source).name
    stages: list[Stage] = []
    for phase in phases:
        start = stages[-1].folder / MODEL if stages else source
        aim = Aim(
            resolution=phase.resolution,
            positions=phase.positions,
            flow_shift=phase.flow_shift,
            fresh=fresh and not stages,
            name=f"{name}-{phase.resolution}px",
        )
        make = partial(_phase_run, data, start, phase, steps, aim)
        stages.append(Stage(output / f"{phase.resolution}px", make))
    return stages


def _phase_run(
    data: Path, source: StrPath, phase: ResolutionPhase, steps: int | None, aim: Aim, output: Path
) -> Run:
    config = settings_for(source, phase.steps if steps is None else steps, phase.batch_size)
    config = replace(config, learning_rate=phase.learning_rate)
    return finetune_run(data, output, source, config, aim, workers=WORKERS)
