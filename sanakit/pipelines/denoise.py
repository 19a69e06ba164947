"""Denoising: samples of one latent size take steps together, each at its own time.

A single image, the images of one call and a server's batch are treated alike: compute the velocity at each
sample, and let its solver take a step. Samples share nothing but the pass through the transformer, so any of
them may join before a step and leave after it.
Source of keeping a region: RePaint (arXiv:2201.09865) restores the known part at every step. Here the
velocity of that part points to it, which on the straight path of flow matching is equivalent and exact for
every solver.
Shapes: B samples, C h w latents, of clips C T h w.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor, nn

from sanakit.dialect import CROSS_NORM_EPS
from sanakit.errors import SettingsError
from sanakit.flow.guidance_kinds import PLAIN, GuidanceKind
from sanakit.flow.path import clean_from_velocity, interpolate, velocity_towards
from sanakit.flow.solver import Solver, State
from sanakit.models.contracts import Codec, VelocityModel
from sanakit.models.perturbed import perturbed_velocity
from sanakit.models.sana import TextContext, has_blocks
from sanakit.models.weighted import weighted
from sanakit.pipelines.memory import memory_limit
from sanakit.pipelines.request import Request
from sanakit.text.prompt_weights import fitted

Rows = Sequence[Tensor]  # 1 C h w of each sample


@dataclass(slots=True, eq=False)
class Sample:
    """One image on its way.

    solver, state: where it stands, see `flow/solver.py`. clean: 1 C h w, the clean latents that were in sight
    at its last step. guidance: the scale. prompt, negative: one each, from `Sana.prepare`; without a negative
    one the scale plays no part, save for SANA-Sprint models, whose input it is. kind, kept: how it is
    guided, and what that keeps of the last step. known: 1 C h w, clean latents that are kept where the mask,
    1 1 h w, is 0.
    """

    solver: Solver | None  # None: no step is taken
    state: State
    clean: Tensor
    guidance: float
    prompt: TextContext
    negative: TextContext | None = None
    kind: GuidanceKind = PLAIN
    kept: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None


def begin(
    transformer: VelocityModel,
    request: Request,
    features: Sequence[Tensor],
    known: Tensor | None,
    masks: Tensor | None = None,
    weights: Sequence[Tensor | None] | None = None,
) -> list[Sample]:
    """Return a request's images at their solver's first time.

    features: L E, of `Request.nulls`, then of the prompts. weights: L, of these; None: all 1. known, masks:
    as for `Sample`, one row for all images or one each; masks None: the source's.
    """

    # Keys and values of every layer, once for all steps and all images of a prompt. The native negative
    # prompt is padded: it has as many features as the prompt's mask.
    def prepared(number: int, length: int | None = None) -> TextContext:
        text = features[number][:length]
        context = transformer.prepare([text], eps=CROSS_NORM_EPS[request.dialect])
        return weighted(context, fitted(weights[number], len(text)) if weights else None)

    rows = [len(text) if request.dialect == "native" else None for text in features[len(request.nulls) :]]
    keys = list(zip(request.negatives, rows, strict=True))
    nulls = {(n, row): prepared(request.nulls.index(n), row) for n, row in set(keys) if request.guided}
    pairs = [(prepared(len(request.nulls) + i), nulls.get(key)) for i, key in enumerate(keys)]
    prompts = [both for both, count in zip(pairs, request.counts, strict=True) for _ in range(count)]

    # Noise from each image's own seed, unless the caller brought it; what SCM adds later is the seed's too.
    drawn = [request.cells.noise(seed) for seed in request.seeds]
    generators = [g for _, g in drawn] or [Generator("cpu")] * request.num_images  # SCM always has seeds
    noise = torch.stack([first for first, _ in drawn]) if request.latents is None else request.latents
    noise = noise.to(features[0].device, torch.float32)
    if masks is None and request.conditions.image is not None:
        masks = request.conditions.image.mask
    each = zip(prompts, noise.split(1), generators, _rows(known, noise), _rows(masks, noise), strict=True)
    samples = []
    for (prompt, negative), one, generator, own, mask in each:
        state = _first(request, one, generator, own)
        kept = {} if mask is None else {"known": own, "mask": mask}
        guided = (request.guidance, prompt, negative, request.kind)
        samples.append(Sample(request.solver, state, state.sample, *guided, **kept))
    return samples


def _first(request: Request, noise: Tensor, generator: Generator, known: Tensor | None) -> State:
    """Return an image's first state: noise, a mix of noise and `known`, or `known` if no step is taken."""
    solver = request.solver
    if solver is None:
        assert known is not None, "only an image to start from can take no step"
        return State(sample=known, sigma=0.0, t=0.0, index=0, total=0)
    if known is not None and not request.from_noise:
        noise = interpolate(known, noise, solver.times[0].item())
    return solver.start(noise, generator)


def _rows(values: Tensor | None, noise: Tensor) -> Sequence[Tensor | None]:
    """Return a row of values for each image, which may share one; None for each where there are none."""
    if values is None:
        return [None] * len(noise)
    return values.to(noise.device).expand(len(noise), *values.shape[1:]).split(1)


def encode_source(autoencoder: Codec, pixels: Tensor, device: torch.device) -> Tensor:
    """Return the latents 1 C h w of an image (1 3 H W), scaled as the transformer sees them.

    Raises MemoryLimitError.
    """
    with memory_limit("encoding the image: take a smaller size"), torch.no_grad():
        latents = autoencoder.encode(pixels.to(device, autoencoder.dtype))
    return latents.float() * autoencoder.config.scaling_factor


class Batch:
    """Samples that take their steps together: of one latent size and of the same branches (`Request`)."""

    def __init__(self, transformer: VelocityModel, samples: Sequence[Sample]) -> None:
        self.transformer = transformer
        self.samples = samples
        negatives = [sample.negative for sample in samples if sample.negative is not None]
        if len(negatives) not in (0, len(samples)):
            raise ValueError("A batch mixes samples with and without guidance: use one batch for each.")
        prompts = [sample.prompt for sample in samples]
        self._prompts = TextContext.join(prompts)
        self._both = TextContext.join([*negatives, *prompts]) if negatives else None
        self._blocks = samples[0].kind.blocks
        if self._blocks and not has_blocks(transformer):
            raise SettingsError("pag looks into the transformer's blocks, which this model keeps to itself.")
        if any(sample.kind.blocks != self._blocks for sample in samples):
            raise ValueError("A batch mixes samples with other perturbed blocks: use one batch for each.")

    @property
    def latents(self) -> Tensor:
        """The current latents, B C h w."""
        return torch.cat([sample.state.sample for sample in self.samples])

    @property
    def clean(self) -> Tensor:
        """The predicted clean latents of the last step, B C h w."""
        return torch.cat([sample.clean for sample in self.samples])

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done and in all, of the first sample."""
        return self.samples[0].state.index, self.samples[0].state.total

    @torch.no_grad()
    def step(self, after_block: Callable[[nn.Module], object] | None = None) -> None:
        """Take every sample one step further; if anything fails, all stand where they stood.

        after_block: see `Sana.velocity`. Raises MemoryLimitError.
        """
        without, towards, perturbed = self._branches(after_block)
        absent: Sequence[None] = [None] * len(self.samples)
        each = zip(self.samples, without or absent, towards, perturbed or absent, strict=True)
        moved = [self.moved(*own) for own in each]
        for sample, (state, clean, kept) in zip(self.samples, moved, strict=True):
            sample.state, sample.clean, sample.kept = state, clean, kept

    def _branches(
        self, after_block: Callable[[nn.Module], object] | None
    ) -> tuple[Rows | None, Rows, Rows | None]:
        """Return the velocities without the prompts, with them, and perturbed; None: this step needs none."""
        scales = [sample.guidance for sample in self.samples]
        scale = scales[0] if min(scales) == max(scales) else self.latents.new_tensor(scales)
        embedded = scale if self.transformer.config.guidance_embed else None
        times = [sample.state.t for sample in self.samples]
        t = times[0] if min(times) == max(times) else torch.tensor(times, dtype=torch.float32)
        guided = any(sample.kind.at(sample.state.sigma) for sample in self.samples)
        context = self._both if guided and self._both is not None else self._prompts
        with memory_limit("denoising: draw fewer images at once, or a smaller size"):
            if guided and self._blocks:
                assert has_blocks(self.transformer), "checked at the start"
                found = perturbed_velocity(
                    *(self.transformer, self._blocks, self.latents, t, context, self._prompts),
                    after_block=after_block,
                )
            else:
                found = self.transformer.velocity(self.latents, t, context, embedded, after_block=after_block)
        # they are close: their differences, amplified by scales, must not be taken in half precision
        rows = [part.split(1) for part in found.float().split(len(self.samples))]
        without = rows.pop(0) if context is self._both else None
        return without, rows[0], rows[1] if len(rows) > 1 else None

    @staticmethod
    def moved(
        sample: Sample, without: Tensor | None, towards: Tensor, perturbed: Tensor | None
    ) -> tuple[State, Tensor, Tensor | None]:
        """Return a sample's next state by its velocities (1 C h w), the clean latents they point to, and what
        its guidance keeps."""
        state, kept = sample.state, None
        if sample.kind.at(state.sigma) and not (without is None and perturbed is None):
            base = towards if without is None else without
            towards, kept = sample.kind.combine(
                sample.guidance, base, towards, perturbed, state.index, sample.kept
            )
        if sample.mask is not None and sample.known is not None:
            backwards = velocity_towards(sample.known, state.sample, state.sigma)
            towards = torch.where(sample.mask > 0, towards, backwards)
        clean = clean_from_velocity(state.sample, towards, state.sigma)
        # None: done from the start
        return cast(Solver, sample.solver).advance(state, towards), clean, kept
