"""Training of an adapter (LoRA): its matrices learn on a velocity objective's samples; the model is frozen.

Prior preservation (DreamBooth, arXiv:2208.12242) adds the loss on images of the class, drawn by the model
itself before, times a weight: loss = own + weight * class. With a weight of 0 they are measured alone.

Whether the model forgets is measured at each evaluation: by how much the loss on images of the class, drawn
by the model without the adapter, is larger with it (`forgotten_...`); and, where there is a CLIP, by the
score of prompts of the class drawn with the adapter and without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.adapters.adapter import Adapter
from sanakit.adapters.attach import AdapterSet
from sanakit.adapters.layer import LowRank
from sanakit.images.sheets import stack_sheets
from sanakit.models.sana import Sana
from sanakit.text.clip import ClipScorer
from sanakit.train.objectives.flow_matching import TIMES_WATCHED, draw_latents
from sanakit.train.objectives.velocity import TRANSFORMER, VelocityBatch, VelocityObjective
from sanakit.train.parts import Part

ADAPTER = "adapter"  # its name in a run's checkpoint


@dataclass(frozen=True, slots=True)
class AdapterBatch:
    """A part of a global batch. prior: of the class's images; None: they are not trained on."""

    own: VelocityBatch
    prior: VelocityBatch | None


class AdapterObjective:
    """An adapter on the samples of a velocity objective, whose transformer is frozen.

    adapter: float32, as from `fresh_adapter`; the tensors trained are copies. prior: the same model on images
    of the class; None: there are none. prior_weight: at least 0. judge: scores prompts of the class.
    """

    def __init__(
        self,
        velocity: VelocityObjective,
        adapter: Adapter,
        prior: VelocityObjective | None = None,
        *,
        prior_weight: float = 1.0,
        judge: ClipScorer | None = None,
    ) -> None:
        self.velocity, self.prior, self.prior_weight, self.judge = velocity, prior, prior_weight, judge
        self.base = velocity.transformer.eval().requires_grad_(False)
        self._begun = adapter.to(torch.float32)
        self._set = AdapterSet(self.base)
        self._set.add(self._begun, ADAPTER)
        parts = dict(named_parts(self._set))
        self.model: nn.Module = nn.ModuleDict({ADAPTER: nn.ModuleDict(parts)}).requires_grad_(True)
        self._before: dict[str, float] | None = None  # of the class, without the adapter

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the feeds get ready."""
        self.velocity.begin(first, parts)
        if self._learns_prior:
            self._prior.begin(first, parts)

    def batch(self, step: int, part: Part) -> AdapterBatch:
        """Draw samples, noise and times of a part of a step's batch, and as many of the class."""
        own = self.velocity.batch(step, part)
        return AdapterBatch(own, self._prior.batch(step, part) if self._learns_prior else None)

    def loss(self, batch: AdapterBatch) -> Tensor:
        """Return the sum of the samples' errors, each times its share of the global batch."""
        own = self.velocity.loss(batch.own)
        return own if batch.prior is None else own + self.prior_weight * self._prior.loss(batch.prior)

    def filled(self, batch: AdapterBatch) -> Tensor:
        """Return the share of the global batch that the part's samples are; the class's do not count."""
        return self.velocity.filled(batch.own)

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure the loss with the right, no and a wrong caption, and what is forgotten of the class."""
        adapted = self._with(averaged)
        measured = self.velocity.evaluate(_only(adapted.transformer))
        if self.prior is None:
            return measured
        now = self._of_class(adapted.transformer)
        if self._before is None:
            adapted.weigh({ADAPTER: 0.0})
            self._before = self._of_class(adapted.transformer)
        for time in TIMES_WATCHED:
            measured[f"forgotten_{time}"] = now[f"right_{time}"] - self._before[f"right_{time}"]
        if self.judge is not None:
            measured |= {"class_score": now["score"], "class_score_before": self._before["score"]}
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw the sheet's prompts, and below them those of the class."""
        only = _only(self._with(averaged).transformer)
        sheets = [self.velocity.sheet(only), *([] if self.prior is None else [self.prior.sheet(only)])]
        return stack_sheets(sheets)

    def trained(self, tensors: dict[str, Tensor]) -> Adapter:
        """Return the adapter with the tensors of a checkpoint's part `ADAPTER`, on the CPU."""
        return with_tensors(self._begun, tensors)

    @property
    def _learns_prior(self) -> bool:
        return self.prior is not None and self.prior_weight > 0

    @property
    def _prior(self) -> VelocityObjective:
        assert self.prior is not None
        return self.prior

    def _with(self, averaged: nn.Module) -> AdapterSet:
        """Return the transformer with averaged matrices; it shares all else with the one that is trained."""
        return with_matrices(self._set, cast(nn.ModuleDict, cast(nn.ModuleDict, averaged)[ADAPTER]))

    def _of_class(self, transformer: Sana) -> dict[str, float]:
        """Measure images and prompts of the class."""
        measured = self._prior.evaluate(_only(transformer))
        if self.judge is not None:
            drawing = self._prior.drawing
            latents = draw_latents(
                transformer,
                self._prior.encoder,
                drawing.prompts,
                drawing.shape,
                shift=self._prior.shift,
                guidance=drawing.guidance,
                steps=drawing.steps,
            )
            images = drawing.decode(latents)
            measured["score"] = self.judge.scores(images, drawing.prompts).mean().item()
        return measured


def named_parts(adapters: AdapterSet) -> Iterator[tuple[str, LowRank]]:
    """Yield the parts of the adapter called `ADAPTER`, by names that a module can have."""
    for path, part in adapters.parts(ADAPTER):
        yield _key(path, part.start), part


def with_matrices(adapters: AdapterSet, values: nn.ModuleDict) -> AdapterSet:
    """Return the same transformer with other matrices; it shares all else. values: by `named_parts`."""
    other = adapters.twin()
    for name, part in named_parts(other):
        one = cast(LowRank, values[name])
        part.down, part.up = one.down, one.up
    return other


def with_tensors(adapter: Adapter, tensors: dict[str, Tensor]) -> Adapter:
    """Return an adapter with the tensors of a checkpoint's part, on the CPU."""
    parts = []
    for part in adapter.parts:
        name = _key(part.place.layer, part.place.start)
        down, up = (tensors[f"{name}.{kind}"].float().cpu() for kind in ("down", "up"))
        parts.append(replace(part, down=down, up=up))
    return replace(adapter, parts=tuple(parts))


def _key(layer: str, start: int) -> str:
    return f"{layer}:{start}".replace(".", "/")


def _only(transformer: Sana) -> nn.Module:
    """Return a transformer as a velocity objective takes averaged weights."""
    return nn.ModuleDict({TRANSFORMER: transformer})
