"""Denoising: samples of one latent size that take their steps together, each at a time of its own.

A picture alone, the pictures of one call and a server's crowd go the same way: look at the velocity where
each sample stands, let its solver go there. Samples share nothing but the pass through the transformer, so
any of them may join before a step and leave after it.
Source of keeping a region: RePaint (arXiv:2201.09865) puts the known part back at every step; here the
velocity of that part leads to it, which on the straight path of flow matching is the same and exact for
every solver.
Shapes: B samples, C h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sanakit.flow.euler import State
from sanakit.flow.guidance import Velocity, classifier_free
from sanakit.flow.path import clean_from_velocity, interpolate, velocity_towards
from sanakit.models.dc_ae import DCAE
from sanakit.models.sana import Sana, TextContext
from sanakit.pipelines.memory import memory_limit
from sanakit.pipelines.request import Source


@dataclass(slots=True, eq=False)
class Sample:
    """One picture on its way.

    solver, state: where it stands, see `flow/euler.py`. clean: 1 C h w, the clean latents that were in sight
    at its last step. guidance: the scale. prompt, negative: one each, from `Sana.prepare`; without a negative
    one the scale plays no part. known: 1 C h w, clean latents that are kept where the mask, 1 1 h w, is 0.
    """

    solver: Any
    state: State
    clean: Tensor
    guidance: float
    prompt: TextContext
    negative: TextContext | None = None
    known: Tensor | None = None
    mask: Tensor | None = None


def start(
    solver: Any,
    noise: Tensor,
    guidance: float,
    prompt: TextContext,
    negative: TextContext | None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    anew: bool = True,
) -> Sample:
    """Give the sample at the solver's first time; all as for `Sample`.

    noise: 1 C h w, standard normal. anew: begin at pure noise, as text to image does; otherwise nearer to
    `known`, where the solver's times begin. solver: None does nothing, the sample is `known` itself.
    """
    if solver is None:
        assert known is not None
        state = State(sample=known, sigma=0.0, t=0.0, index=0, total=0)
    elif anew or known is None:
        state = solver.start(noise)
    else:
        state = solver.start(interpolate(known, noise, solver.times[0].item()))
    if mask is None:
        return Sample(solver, state, state.sample, guidance, prompt, negative)
    return Sample(solver, state, state.sample, guidance, prompt, negative, known, mask.to(noise.device))


def encode_source(autoencoder: DCAE, source: Source, device: torch.device) -> Tensor:
    """Give the latents 1 C h w of a picture to start from, scaled as the transformer sees them.

    Raises MemoryLimitError.
    """
    with memory_limit("encoding the picture: take a smaller size"), torch.no_grad():
        latents = autoencoder.encode(source.pixels.to(device, autoencoder.dtype))
    return latents.float() * autoencoder.config.scaling_factor


class Batch:
    """Samples that take their steps together: of one latent size, all of them guided or none."""

    def __init__(self, transformer: Sana, samples: Sequence[Sample]) -> None:
        self.transformer = transformer
        self.samples = samples
        negatives = [sample.negative for sample in samples if sample.negative is not None]
        if len(negatives) not in (0, len(samples)):
            raise ValueError("Samples with and without guidance came in one batch: give each kind its own.")
        self._guided = bool(negatives)
        self._context = TextContext.join([*negatives, *(sample.prompt for sample in samples)])

    @property
    def latents(self) -> Tensor:
        """B C h w, where the samples stand."""
        return torch.cat([sample.state.sample for sample in self.samples])

    @property
    def clean(self) -> Tensor:
        """B C h w, the clean latents that were in sight at the last step."""
        return torch.cat([sample.clean for sample in self.samples])

    @torch.no_grad()
    def step(self, after_block: Callable[[nn.Module], object] | None = None) -> None:
        """Take every sample one step further; if anything fails, all stand where they stood.

        after_block: see `Sana.velocity`. Raises MemoryLimitError.
        """

        def evaluate(latents: Tensor, t: float | Tensor) -> Tensor:
            with memory_limit("denoising: draw fewer pictures at once, or a smaller size"):
                return self.transformer.velocity(latents, t, self._context, after_block=after_block)

        velocity: Velocity = evaluate
        scales = [sample.guidance for sample in self.samples]
        if self._guided:
            alike = min(scales) == max(scales)
            velocity = classifier_free(evaluate, scales[0] if alike else self.latents.new_tensor(scales))
        times = [sample.state.t for sample in self.samples]
        t = times[0] if min(times) == max(times) else torch.tensor(times)
        towards = velocity(self.latents, t).float()
        moved = [self._moved(sample, own) for sample, own in zip(self.samples, towards.split(1), strict=True)]
        for sample, (state, clean) in zip(self.samples, moved, strict=True):
            sample.state, sample.clean = state, clean

    @staticmethod
    def _moved(sample: Sample, velocity: Tensor) -> tuple[State, Tensor]:
        """Where the velocity (1 C h w) takes a sample, and the clean latents it points to."""
        state = sample.state
        if sample.mask is not None and sample.known is not None:
            kept = velocity_towards(sample.known, state.sample, state.sigma)
            velocity = torch.where(sample.mask > 0, velocity, kept)
        clean = clean_from_velocity(state.sample, velocity, state.sigma)
        return sample.solver.advance(state, velocity), clean
