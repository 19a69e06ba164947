"""Stages that go on from a finished pocket: `pocket-names` (its text encoder), `pocket-refine` (its decoder),
`pocket-poses` (its transformer at 256 px) and `pocket-512`; `pocket-further` is all of them in turn.

`pocket-names`: see `train/foreign.py`.

`pocket-poses`: drawings mirrored, turned, scaled and moved are half of what is shown, mostly under captions
that do not say so: seeds choose how a thing stands. Common things count in full, foreign names are a fifth of
the captions and scenes a quarter of the draws; other canvases are left out.

`pocket-512`: SANA's last stage. Vector art is drawn again at 512 px; latents are 16 x 16, and 20 x 12 to
12 x 22 on the other canvases. The transformer has no positional encoding, so nothing in it changes shape; its
convolutions and attention learn that things are twice as many tokens wide. Both read the source's text
encoder, which stands still.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sanakit.models.dc_ae import DC_AE_POCKET
from sanakit.pocket.data.canvas import DOUBLE_SIZES
from sanakit.pocket.data.samples import DESIGNS, SQUARE, Mix
from sanakit.pocket.recipes.pocket import (
    DECODER,
    DEFAULTS,
    DRAWINGS,
    OFFERS,
    SHIFT,
    TEXT_ENCODER,
    TRANSFORMER,
)
from sanakit.pocket.train.drawings import Drawings, drawings_run
from sanakit.pocket.train.foreign import names_run
from sanakit.pocket.train.runs import autoencoder_run
from sanakit.train.config import TrainConfig
from sanakit.train.run import MODEL, Run, Stage

NAMES = TrainConfig(
    steps=500,
    batch_size=96,
    learning_rate=1.5e-3,
    optimizer="muon",
    muon_learning_rate=2e-3,
    betas=(0.9, 0.98),
    warmup_steps=30,
    decay_fraction=0.5,
    weight_decay=0.0,
    ema_decay=0.98,
    bf16=True,
    log_every=10,
    evaluate_every=75,
    checkpoint_every=50,
)
KEPT = 0.75  # share of English texts
WAY = 0.85  # from the source to the trained encoder: see LOG.md

POSES = Mix(
    shares={"drawn": 0.24, "mirrored": 0.14, "varied": 0.28, "painted": 0.1, "scene": 0.24},
    famous=1.0,
    varied=4,
    turn=20.0,
    scales=(0.55, 1.0),
    sizes=(SQUARE,),
    foreign=0.2,
    posed=0.12,
    mirrored_in_scenes=0.5,
)
POSES_TRAINING = replace(
    DRAWINGS, steps=2000, learning_rate=1e-3, muon_learning_rate=2e-3, decay_fraction=0.4
)
POSES_SCENES = 12_000

DOUBLE = replace(
    POSES,
    shares={"drawn": 0.4, "mirrored": 0.1, "varied": 0.15, "painted": 0.08, "shaped": 0.12, "scene": 0.15},
    # the 3D design is images of 256 px, enlarged
    designs={**DESIGNS, "fluent-3d": 0.3, "fluent-color": 1.0},
    rare=0.0,
    varied=1,
    sizes=DOUBLE_SIZES,
)
DOUBLE_TRAINING = replace(POSES_TRAINING, batch_size=32, warmup_steps=50, checkpoint_every=50)
DOUBLE_SCENES = 3000
DOUBLE_DEFAULTS = DEFAULTS | {"width": 512, "height": 512}


Source = str | os.PathLike[str]


def names(
    data: Path, output: Path, steps: int | None = None, *, source: Source = "pocket", smoke: bool = False
) -> Run:
    """Train the text encoder of `source`, pocket or a model of its recipe; all else stays as it is."""
    return names_run(data, output, source, NAMES.lasting(steps, smoke=smoke), kept=KEPT, way=WAY)


def refine(
    data: Path, output: Path, steps: int | None = None, *, source: Source = "pocket", smoke: bool = False
) -> Run:
    """Train the decoder of `source` further, as `pocket-decoder` does; latents stay what they are."""
    config = replace(DECODER, steps=1500, learning_rate=2e-4).lasting(steps, smoke=smoke)
    return autoencoder_run(
        data,
        output,
        DC_AE_POCKET,
        config,
        crop=128,
        whole_from=0.5,
        latent_noise=0.06,
        scene_share=0.32,
        source=source,
    )


def poses(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: Source = "pocket",
    smoke: bool = False,
) -> Run:
    """Train the transformer of `source`, pocket or a model of its recipe, on drawings in many poses."""
    what = Drawings(
        transformer=TRANSFORMER,
        text=TEXT_ENCODER,
        autoencoder=DC_AE_POCKET,
        shift=SHIFT,
        scenes=32 if smoke else POSES_SCENES,
        defaults=DEFAULTS,
        offers=OFFERS,
        mix=POSES,
        keep_text=True,
    )
    return drawings_run(data, output, what, POSES_TRAINING.lasting(steps, smoke=smoke), source=source)


def double(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: Source = "pocket",
    smoke: bool = False,
) -> Run:
    """Train the transformer of `source` at 512 px; the packages must lie beside the data, as it was built."""
    what = Drawings(
        transformer=replace(TRANSFORMER, sample_size=16),
        text=TEXT_ENCODER,
        autoencoder=DC_AE_POCKET,
        shift=SHIFT,
        scenes=32 if smoke else DOUBLE_SCENES,
        defaults=DOUBLE_DEFAULTS,
        offers=OFFERS | {"sizes": DOUBLE_SIZES[:1]},
        mix=DOUBLE,
        side=512,
        keep_text=True,
    )
    return drawings_run(data, output, what, DOUBLE_TRAINING.lasting(steps, smoke=smoke), source=source)


FURTHER = {"pocket-names": names, "pocket-refine": refine, "pocket-poses": poses, "pocket-512": double}


def further(
    data: Path, output: Path, steps: int | None = None, *, source: Source = "pocket", smoke: bool = False
) -> list[Stage]:
    """Run all stages in turn, each in a folder of `output` and from the model before it."""
    stages, before = [], source
    for name in FURTHER:
        stages.append(Stage(output / name, _stage(name, data, before, steps, smoke=smoke)))
        before = output / name / MODEL
    return stages


def _stage(name: str, data: Path, source: Source, steps: int | None, *, smoke: bool) -> Callable[[Path], Run]:
    return lambda folder: FURTHER[name](data, folder, steps, source=source, smoke=smoke)
