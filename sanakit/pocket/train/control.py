"""A ControlNet for pocket that follows lines: the run of `pocket-control`.

Samples are those of its drawings that show well-known things, alone and in scenes, on the square canvas. Most
are turned, mirrored, scaled and moved further than those that pocket itself learned from: pocket knows its
drawings by heart, and a ControlNet that only ever agrees with it learns to name them, not to follow lines.
Mirrored ones of one design are left out: the benchmark steers by them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sanakit.images.hints import HintKind
from sanakit.images.image import to_tensor
from sanakit.models.controlnet import ControlNet
from sanakit.pocket.data.canvas import Placement
from sanakit.pocket.data.dataset import PocketImages, open_designs
from sanakit.pocket.data.encoding import encode_images
from sanakit.pocket.data.pool import build_hints, build_pool
from sanakit.pocket.data.samples import RARE, SQUARE, Mix, PocketSample, fame, list_samples
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.data.wording import Wording
from sanakit.pocket.train.feed import PocketFeed
from sanakit.pocket.words.concepts import COMMON_CONCEPTS, ONE_WAY
from sanakit.seeds import numpy_generator
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.feed import decoded
from sanakit.train.objectives.control import CONTROLNET, ControlObjective
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.parts import Part
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, averaged_weights
from sanakit.train.runs.control import copies_of
from sanakit.train.state.average import part_of
from sanakit.weights import (
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_controlnet,
)
from sanakit.weights.quantized import check_trainable

WATCHED, DRAWN = 24, 12  # mirrored drawings that are measured on, and those of them on the sheet
STYLE = "noto"  # of those
MOVES = 9  # which random numbers move the copies
MOVED = 3  # copies of a drawing
TURN, SCALES = 40.0, (0.5, 1.0)  # of those: degrees at most, and sides over the canvas's
SHARES = {"drawn": 0.12, "varied": 0.6, "painted": 0.1, "scene": 0.18}


def control_run(
    data: Path,
    output: Path,
    source: str | os.PathLike[str],
    config: TrainConfig,
    kind: HintKind,
    *,
    scenes: int,
) -> Run:
    """Train a ControlNet for a model of pocket's size; the result is `output`/model.

    kind: of the hints. scenes: how many are composed. Latents of images and hints are encoded once, into
    `output`/pool. Raises DataError without a data set, SettingsError for a quantised model.
    """
    check_trainable(source)
    notes: list[str] = []
    pocket, both = open_designs(data, notes)
    composed = Scenes(pocket, scenes)
    device, settings = training_device(), load_settings(source)
    codec = load_image_autoencoder(source, part="both", dtype="float32").eval()
    scale = codec.config.scaling_factor
    torch.manual_seed(config.seed)
    transformer = load_transformer(source, kind="image", device=device, dtype="float32")
    encoder = load_text_encoder(source, device=device, dtype="float32")
    pool = build_pool(output / "pool", _samples(both, scenes), both, composed, codec)
    hints = build_hints(output / "pool", pool, both, composed, codec, kind)
    feed = PocketFeed(pool, both.rows, composed, Wording({}), scale=scale, shares=SHARES, seed=config.seed)
    shown, captions = _watched(pocket)
    side = transformer.config.sample_size
    velocity = VelocityObjective(
        transformer,
        encoder,
        feed,
        shift=settings.shift,
        seed=config.seed,
        watched=[Watched("", encode_images(codec, shown) * scale, captions)],
        sheet=Sheet(
            prompts=captions[:DRAWN],
            guidance=settings.guidance,
            steps=settings.steps,
            shape=(transformer.config.latent_channels, side, side),
            decode=lambda latents: decoded(codec, latents),
        ),
    )
    objective = ControlObjective(
        velocity,
        codec,
        kind,
        to_tensor(np.stack(shown)),
        copies=copies_of(transformer.config.depth),
        known=_PoolHints(feed, hints, scale),
    )

    def finish(folder: Path) -> None:
        net = ControlNet(objective.net.config)
        net.load_state_dict(part_of(averaged_weights(folder), CONTROLNET))
        save_controlnet(folder / MODEL, net, transformer, hint=kind, dtype="float16")

    choices = {"kind": kind, "scenes": scenes, "copies": objective.net.config.depth}
    made_with = MadeWith(source=source, data=data, content=both.fingerprint, choices=choices)
    return Run(objective, config, finish, tuple(notes), made_with)


class _PoolHints:
    """The hints of the samples that a feed draws. hints: as `build_hints` returns them."""

    def __init__(self, feed: PocketFeed, hints: dict[tuple[int, int], np.ndarray], scale: float) -> None:
        self._feed, self._hints, self._scale = feed, hints, scale

    def hints(self, step: int, part: Part) -> Tensor:
        """Return those of a part of a step's batch as scaled latents, B C h w."""
        size, places = self._feed.drawn(step, part)
        return torch.from_numpy(self._hints[size][places].astype(np.float32)) * self._scale


def _samples(pocket: PocketImages, scenes: int) -> list[PocketSample]:
    """List what is learned from. Moved copies stand for the varied ones of the list."""
    random = numpy_generator(0, MOVES)
    samples: list[PocketSample] = []
    for sample in list_samples(pocket, scenes, mix=Mix(sizes=(SQUARE,))):
        if sample.kind in ("mirrored", "varied"):
            continue
        if sample.scene >= 0:
            samples.append(sample)
        elif fame((row := pocket.rows[sample.row]).concept) > RARE:
            samples.append(sample)
            if sample.kind == "drawn":
                flip = row.style != STYLE and row.concept not in ONE_WAY
                samples += [_moved(sample, random, flip=flip) for _ in range(MOVED)]
    return samples


def _moved(sample: PocketSample, random: np.random.Generator, *, flip: bool) -> PocketSample:
    """Return a copy of a drawing that stands elsewhere, in another size, turned and perhaps mirrored."""
    flipped, turn, scale, x, y = random.random(5)
    placement = Placement(
        flip=bool(flip and flipped < 0.5),
        turn=float(TURN * (2 * turn - 1)),
        scale=float(SCALES[0] + scale * (SCALES[1] - SCALES[0])),
        x=float(x),
        y=float(y),
    )
    return replace(sample, kind="varied", placement=placement)


def _watched(pocket: PocketImages) -> tuple[list[np.ndarray], list[str]]:
    """Return mirrored drawings of common things and their captions; of another data set, its first ones."""
    own = {row.concept: i for i, row in enumerate(pocket.rows) if row.style == STYLE}
    known = [(own[concept], said) for concept, said in COMMON_CONCEPTS.items() if concept in own]
    known = known or [(i, row.captions[0]) for i, row in enumerate(pocket.rows)]
    some = known[:: max(1, len(known) // WATCHED)][:WATCHED]
    return [np.ascontiguousarray(pocket.images[i][:, ::-1]) for i, _ in some], [said for _, said in some]
