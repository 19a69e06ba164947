"""Training of a ControlNet: copies and projections learn to follow hints; the model they steer is frozen.

The loss is that of flow matching (`velocity.py`); hints are made of the images when they are shown. The
projections begin as zeros, so that the first steps are those of the model alone; how to follow the hint is
often learned suddenly, after a while in which nothing shows.

That the loss falls does not show that the hint is heard. `evaluate` therefore measures the loss with the
right hint, with none (the frozen model) and with another image's: the gaps are the figures to watch.
Source: Zhang et al. 2023 (arXiv:2302.05543).
Shapes: B batch, C h w latents, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.images.hints import HintKind, make_hint
from sanakit.images.image import to_pil, to_tensor
from sanakit.images.sheets import contact_sheet
from sanakit.models.controlnet import COPIES, Control, ControlledSana, ControlNet
from sanakit.models.dc_ae import DCAE
from sanakit.train.feeds.feed import Unencoded, decoded, encoded
from sanakit.train.objectives.flow_matching import TIMES_WATCHED, draw_latents, velocity_errors
from sanakit.train.objectives.velocity import VelocityBatch, VelocityObjective
from sanakit.train.parts import Part

CONTROLNET = "controlnet"  # its name in a run's checkpoint


@dataclass(frozen=True, slots=True)
class ControlBatch:
    """A part of a global batch with its hints."""

    velocity: VelocityBatch
    hints: Tensor | Unencoded  # B C h w, scaled


class HintFeed(Protocol):
    """Hints of the samples that a velocity objective's feed shows, encoded once before the training."""

    def hints(self, step: int, part: Part) -> Tensor:
        """Return those of a part of a step's batch as scaled latents, B C h w."""
        ...


class ControlObjective:
    """A ControlNet in the native order on the samples of a velocity objective, whose transformer is frozen.

    codec: of the latents, whole and frozen. kind: of the hints. watched: images B 3 H W in [-1, 1], those
    that the velocity objective watches, in its order. copies: as for `ControlNet.of`. known: hints of the
    training samples that are encoded already; None: hints are made of the images.
    """

    def __init__(
        self,
        velocity: VelocityObjective,
        codec: DCAE,
        kind: HintKind,
        watched: Tensor,
        *,
        copies: int = COPIES,
        known: HintFeed | None = None,
    ) -> None:
        self.velocity, self.codec, self.known = velocity, codec, known
        self.kind: HintKind = kind
        self.base = velocity.transformer.eval().requires_grad_(False)
        self.net = ControlNet.of(self.base, copies).train()
        self.model: nn.Module = nn.ModuleDict({CONTROLNET: self.net})
        self._shown = self.hints(watched)

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the feed get ready."""
        self.velocity.begin(first, parts)

    def batch(self, step: int, part: Part) -> ControlBatch:
        """Draw samples, noise and times of a part of a step's batch, and their hints.

        Hints are made of the images where they are not known. Latents of a cache are decoded for it, which
        takes longer than reading the images would.
        """
        drawn = self.velocity.batch(step, part)
        if self.known is not None:
            return ControlBatch(drawn, self.known.hints(step, part).to(self.velocity.device))
        latents = drawn.latents
        images = latents.images if isinstance(latents, Unencoded) else decoded(self.codec, latents)
        return ControlBatch(drawn, Unencoded(self.hints(images), self.codec))

    def loss(self, batch: ControlBatch) -> Tensor:
        """Return the sum of the samples' errors, each times its share of the global batch."""
        drawn = batch.velocity
        latents, text, mask = self.velocity.inputs(drawn)
        hints = batch.hints.encode() if isinstance(batch.hints, Unencoded) else batch.hints
        steered = self._steered(self.net, hints)
        errors = velocity_errors(steered, latents, drawn.noise, drawn.t, text, mask)
        return (errors * drawn.shares).sum()

    def filled(self, batch: ControlBatch) -> Tensor:
        """Return the share of the global batch that the part's samples are."""
        return self.velocity.filled(batch.velocity)

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure the loss with the right, no and another image's hint at fixed noise, at several times."""
        net, (watched,) = self._net(averaged), self.velocity.watched
        latents = watched.latents.to(self.velocity.device)
        noise = torch.randn(
            latents.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float32
        ).to(latents)
        encoder = self.velocity.encoder
        text, mask = encoder.encode_tokens(encoder.tokenize(watched.captions, notes=[]))
        own = encoded(self.codec, self._shown)
        cases = {"right": self._steered(net, own), "none": self.base}
        if len(own) > 1:
            cases["other"] = self._steered(net, own.roll(1, 0))
        return {
            f"{case}_{time}": velocity_errors(
                model,
                latents,
                noise,
                latents.new_full((len(latents),), time),
                text,
                mask,
            )
            .mean()
            .item()
            for time in TIMES_WATCHED
            for case, model in cases.items()
        }

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw the sheet's prompts below the hints that steer them, image i from the noise of seed i."""
        drawing = self.velocity.drawing
        hints = self._shown[: len(drawing.prompts)]
        latents = draw_latents(
            self._steered(self._net(averaged), encoded(self.codec, hints)),
            self.velocity.encoder,
            drawing.prompts,
            drawing.shape,
            shift=self.velocity.shift,
            guidance=drawing.guidance,
            steps=drawing.steps,
        )
        rows = torch.cat([hints.cpu(), drawing.decode(latents).cpu()])
        return contact_sheet(rows, len(drawing.prompts))

    def hints(self, images: Tensor) -> Tensor:
        """Return the hints of images, B 3 H W in [-1, 1] each, on the codec's device."""
        with ThreadPoolExecutor() as threads:  # most of it is done by NumPy and torch, outside Python's lock
            made = list(threads.map(lambda one: np.array(make_hint(one, self.kind)), to_pil(images)))
        return to_tensor(np.stack(made)).to(next(self.codec.parameters()).device)

    def _steered(self, net: ControlNet, latents: Tensor) -> ControlledSana:
        return ControlledSana(self.base, [Control(net=net, latents=latents)])

    def _net(self, averaged: nn.Module) -> ControlNet:
        return cast(ControlNet, cast(nn.ModuleDict, averaged)[CONTROLNET])
