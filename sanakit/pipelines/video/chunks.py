"""One chunk of a clip after another: noise, steps that read the past, and one pass that extends it.

    point = ClipPoint.start(seed)
    latents, point = sampler.draw(point, 11, prompt)   # 1 C 11 h w
    latents, point = sampler.draw(point, 10, prompt)   # sees the first chunk

A chunk's steps read the state of the chunks before, and never write it. Its finished latents then pass
through the transformer at t = 0, which adds them to the state. Any solver draws it: the few steps of LongSANA
(`flow/few_step.py`) or, where the transformer was trained on chunks but not distilled, the usual ones with
guidance. With guidance there are two pasts, one without the prompt and one with it.
Source: LongSANA (arXiv:2509.24695) and its released samplers.
Shapes: one clip; C channels, T frames of a chunk, h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Generator, Tensor, nn

from sanakit.errors import NumericsError, SettingsError, SizeError
from sanakit.flow.guidance import check_scale
from sanakit.flow.guidance_kinds import PLAIN, GuidanceKind
from sanakit.flow.solver import Solver, State
from sanakit.models.contracts import TransformerConfig, VelocityModel
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import ClipPast, ClipState
from sanakit.models.video.sana_video2 import SanaVideo2
from sanakit.models.video.sana_video_blocks import BlockState
from sanakit.ops.rotary_linear_attention import RotarySums
from sanakit.pipelines.memory import memory_limit

AfterBlock = Callable[[nn.Module], object]
Past = TypeVar("Past", bound=ClipPast)


class CausalConfig(TransformerConfig, Protocol):
    """The sizes of a transformer of clips, whole or in chunks."""

    @property
    def causal(self) -> bool:
        """Whether it was trained on chunks that see earlier ones alone."""
        ...

    @property
    def patch(self) -> int:
        """The side of a token in latents."""
        ...

    @property
    def max_positions(self) -> int:
        """The frames of a clip, and the tokens along one side, that it has positions for."""
        ...


class CausalModel(VelocityModel, Protocol[Past]):
    """A transformer of clips in chunks, such as `SanaVideo`, whose state is a `Past`."""

    @property
    def config(self) -> CausalConfig:
        """Its sizes."""
        ...

    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: AfterBlock | None = None,
        state: Past | None = None,
    ) -> Tensor:
        """Return the velocity of the next chunk, B C T h w. t: one time, or 1 T. state: is only read."""
        ...

    def extend(
        self,
        state: Past | None,
        latents: Tensor,
        context: TextContext,
        t: float | Tensor = 0.0,
        *,
        after_block: AfterBlock | None = None,
    ) -> Past:
        """Return a new state: the given one and a chunk of finished latents."""
        ...


ClipModel = CausalModel | SanaVideo2  # the second draws whole clips alone


@dataclass(frozen=True, slots=True, eq=False)
class LastChunk(Generic[Past]):
    """The chunk before a point, from which its part of the state can be computed again.

    prompt: under which it was added. state, recent: as of the point before it.
    """

    latents: Tensor  # 1 C T h w
    prompt: TextContext
    state: Past | None
    recent: tuple[list[RotarySums], ...]


@dataclass(frozen=True, slots=True, eq=False)
class ClipPoint(Generic[Past]):
    """A point between two chunks: all that the rest of the clip depends on, besides prompts.

    Nothing changes a point. Keep one to come back to it: drawing from it again gives the same latents, bit
    for bit; other prompts or another seed give another future. A point does not grow with its clip.
    random: state of the CPU generator that draws the next noise. state: of the transformer, None before the
    first chunk. recent: the sums of each of the last chunks, if only these are seen. last: for new prompts.
    """

    random: Tensor
    state: Past | None = None
    recent: tuple[list[RotarySums], ...] = ()
    last: LastChunk[Past] | None = None

    @classmethod
    def start(cls, seed: int) -> ClipPoint:
        """Return the point before a clip's first chunk."""
        return cls(Generator("cpu").manual_seed(seed).get_state())

    def with_seed(self, seed: int) -> ClipPoint:
        """Return this point with other random numbers: another future of the same past."""
        return replace(self, random=ClipPoint.start(seed).random)

    @property
    def frames(self) -> int:
        """The number of latent frames so far."""
        return 0 if self.state is None else self.state.frames


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkSampler(Generic[Past]):
    """Draws a clip chunk by chunk.

    height, width: of a frame's latents. solver: of every chunk. negative: the prompt that `guidance` and
    `kind` guide away from, for one clip; None: no guidance. window: how many of the last chunks are seen;
    None: all. renew: whether the last chunk is added to the past again, under a new prompt, before that
    prompt's first chunk; the released interactive sampler does so. after_block: as for `SanaVideo.velocity`.
    after_step: called with the solver's state behind each step; what it raises ends the drawing.
    Raises SettingsError for settings out of range, SizeError for a size that the transformer cannot take.
    """

    transformer: CausalModel[Past]
    height: int
    width: int
    solver: Solver
    negative: TextContext | None = None
    guidance: float = 1.0
    kind: GuidanceKind = PLAIN
    window: int | None = None
    renew: bool = True
    after_block: AfterBlock | None = None
    after_step: Callable[[State], object] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        config = self.transformer.config
        patch, most = config.patch, config.max_positions
        sides = (self.height, self.width)
        if any(side < 1 or side % patch or side // patch > most for side in sides):
            raise SizeError(
                f"Frames of {self.height}x{self.width} latents do not fit this model: each side must be a "
                f"multiple of {patch}, up to {most * patch}."
            )
        check_scale(self.guidance)
        if self.negative is None and (self.guidance != 1 or self.kind != PLAIN):
            raise SettingsError(
                f"guidance = {self.guidance:g} ({self.kind}) needs a negative prompt: pass `negative`, "
                "or leave guidance at 1 and its kind at cfg."
            )
        if self.kind.pag:
            raise SettingsError("pag perturbs blocks, which clips in chunks cannot do yet: omit pag.")
        if self.window is not None and self.window < 1:
            raise SettingsError(
                f"The window is {self.window} chunks: use 1 or more, or None for all of them."
            )
        if self.negative is not None and self.negative.batch != 1:
            raise SettingsError(
                f"The negative prompt is for {self.negative.batch} clips: prepare it for one."
            )

    @torch.no_grad()
    def draw(
        self, point: ClipPoint, frames: int, prompt: TextContext, known: Tensor | None = None
    ) -> tuple[Tensor, ClipPoint]:
        """Return a clip's next chunk, 1 C T h w, and the point behind it.

        frames: T. prompt: from `prepare`, for one clip. known: 1 C k h w, k < T, finished latents that the
        chunk begins with: they keep time 0 and come back as they are. The latents are float32, or float64
        where the transformer is.
        Raises SettingsError or SizeError for what does not fit, NumericsError, or MemoryLimitError.
        """
        self.check(point, [frames], [prompt])
        kept = 0 if known is None else self.checked(known).shape[2]
        if kept >= frames:
            raise SettingsError(
                f"The chunk has {frames} frames, and {kept} of them are known: at least one must be drawn."
            )
        point = self._renewed(point, prompt)
        shape = (1, self.transformer.config.latent_channels, frames, self.height, self.width)
        generator = Generator("cpu")
        generator.set_state(point.random)
        noise = torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
        noise = noise.to(_device(prompt), torch.promote_types(self.transformer.dtype, torch.float32))
        begun = None if known is None else known.to(noise)
        state, carried = self.solver.start(noise[:, :, kept:], generator), None
        while not state.done:
            towards, carried = self._velocity(state, point, prompt, begun, carried)
            state = self.solver.advance(state, towards)
            if self.after_step is not None:
                self.after_step(state)
        latents = state.sample if begun is None else torch.cat([begun, state.sample], dim=2)
        if not bool(torch.isfinite(latents).all()):
            raise NumericsError(
                f"Latent frames {point.frames} to {point.frames + frames - 1} became NaN or infinity: load "
                "the model in float32, or check its weights."
            )
        random = generator.get_state() if state.random is None else state.random
        return latents, replace(self._extended(point, latents, prompt), random=random)

    @torch.no_grad()
    def follow(self, point: ClipPoint, latents: Tensor, prompt: TextContext) -> ClipPoint:
        """Return the point behind a chunk of finished latents, 1 C T h w, of an existing clip.

        No random numbers are used. Raises as `draw` does.
        """
        self.check(point, [self.checked(latents).shape[2]], [prompt])
        dtype = torch.promote_types(self.transformer.dtype, torch.float32)
        point = self._renewed(point, prompt)
        return self._extended(point, latents.to(_device(prompt), dtype), prompt)

    def check(self, point: ClipPoint, lengths: Sequence[int], prompts: Sequence[TextContext]) -> None:
        """Raise SettingsError or SizeError unless chunks of so many latent frames can follow a point."""
        config, total = self.transformer.config, point.frames + sum(lengths)
        for prompt in prompts:
            if prompt.batch != 1:
                raise SettingsError(f"A prompt is for {prompt.batch} clips: prepare it for one.")
        if min(lengths) < 1:
            raise SettingsError(f"A chunk of {min(lengths)} latent frames is empty: use at least 1.")
        if total > config.max_positions:
            raise SizeError(
                f"The clip would have {total} latent frames, but this model has positions for "
                f"{config.max_positions}: draw fewer."
            )
        if not config.causal and (len(lengths) > 1 or point.frames):
            raise SettingsError(
                "This model was not trained on chunks: draw all frames as one chunk, or load a causal model "
                "such as LongSANA."
            )
        if point.state is not None:
            past, pasts = point.state, 1 if self.negative is None else 2
            sides = (self.height // config.patch, self.width // config.patch)
            fits = (past.batch, past.height, past.width) == (pasts, *sides)
            if not fits or bool(point.recent) != (self.window is not None):
                raise SettingsError(
                    f"The point was made with other settings than these ({self.height}x{self.width} latents, "
                    f"{'with' if self.negative else 'without'} guidance, window {self.window}): use its own."
                )

    def checked(self, latents: Tensor) -> Tensor:
        """Return finished latents if they are 1 C T h w of this clip; else raise SizeError."""
        shape = (1, self.transformer.config.latent_channels, self.height, self.width)
        if latents.ndim != 5 or (*latents.shape[:2], *latents.shape[3:]) != shape or not latents.shape[2]:
            raise SizeError(
                f"Finished latents came with the shape {tuple(latents.shape)}: pass (1, {shape[1]}, T, "
                f"{shape[2]}, {shape[3]}), T at least 1."
            )
        return latents

    def _context(self, prompt: TextContext) -> TextContext:
        """Return a prompt, behind the negative one if there is guidance."""
        return prompt if self.negative is None else TextContext.join([self.negative, prompt])

    def _velocity(
        self,
        state: State,
        point: ClipPoint,
        prompt: TextContext,
        known: Tensor | None,
        carried: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the velocity of a chunk's frames behind the known ones, and what its guidance carries on."""
        guided = self.negative is not None and self.kind.at(state.sigma)
        context = self._context(prompt) if guided else prompt
        latents, t, kept = state.sample, state.t, 0
        if known is not None:
            kept = known.shape[2]
            latents = torch.cat([known, latents], dim=2)
            times = torch.full((1, latents.shape[2]), state.t, dtype=torch.float32, device="cpu")
            times[:, :kept] = 0
            t = times
        past = point.state
        if past is not None and self.negative is not None and not guided:
            past = past.second()
        with memory_limit("drawing a chunk: take a smaller size or shorter chunks"):
            found = self.transformer.velocity(latents, t, context, after_block=self.after_block, state=past)
        # they are close: their differences, amplified by the scale, must not be taken in half precision
        found = found[:, :, kept:].to(state.sample.dtype)
        if not guided:
            return found, None
        u, c = found.chunk(2)
        return self.kind.combine(self.guidance, u, c, None, state.index, carried)

    def _extended(self, point: ClipPoint, latents: Tensor, prompt: TextContext) -> ClipPoint:
        """Return the point behind a finished chunk, with this one's random numbers."""
        context = self._context(prompt)
        with memory_limit("adding a chunk to the state: take a smaller size or shorter chunks"):
            state = self.transformer.extend(point.state, latents, context, after_block=self.after_block)
        recent = point.recent
        if self.window is not None:
            assert isinstance(state, ClipState), "only sums can be windowed"
            assert isinstance(point.state, ClipState | None), "as the state behind it"
            recent = (*recent, _own_sums(state, point.state))
            if len(recent) > self.window:
                recent = recent[1:]
                blocks = zip(state.blocks, _totals(recent), strict=True)
                state = replace(state, blocks=[BlockState(sums, block.last) for block, sums in blocks])
        last = LastChunk(latents, prompt, point.state, point.recent) if self.renew else None
        return ClipPoint(point.random, state, recent, last)

    def _renewed(self, point: ClipPoint, prompt: TextContext) -> ClipPoint:
        """Return a point with its last chunk added again, if that was done under another prompt."""
        last = point.last
        if not self.renew or last is None or last.prompt is prompt:
            return point
        return self._extended(ClipPoint(point.random, last.state, last.recent), last.latents, prompt)


def _own_sums(state: ClipState, before: ClipState | None) -> list[RotarySums]:
    """Return what the last chunk added to each block's sums."""
    if before is None:
        return [block.sums for block in state.blocks]
    pairs = zip(state.blocks, before.blocks, strict=True)
    return [
        RotarySums(*(now - then for now, then in zip(block.sums, old.sums, strict=True)))
        for block, old in pairs
    ]


def _totals(chunks: Sequence[list[RotarySums]]) -> list[RotarySums]:
    """Return each block's sums over chunks."""
    totals = []
    for of_block in zip(*chunks, strict=True):
        total = of_block[0]
        for sums in of_block[1:]:
            total = total.plus(sums)
        totals.append(total)
    return totals


def _device(prompt: TextContext) -> torch.device:
    """Return where a prompt's keys are, or the branch that stands for them."""
    first = prompt.layers[0][0]
    found = first.key if first.constant is None else first.constant
    assert found is not None, "a prompt has keys or a constant"
    return found.device
