"""Velocity prediction of clips, whose frames may have times of their own.

The loss is that of flow matching (`velocity.py`) with a time for each frame. Three ways of showing a clip are
mixed, so that one model learns several tasks:
- all frames at one time, seeing each other: text to video;
- the first frame clean, at time 0 and without loss: image to video (`models/video/held_frame.py` draws so);
- in chunks that see themselves and earlier ones, each at its own time: clips of any length
  (`pipelines/video/chunks.py` draws so).
An image is a clip of one frame; `feeds/joint.py` mixes steps of images in.

`evaluate` measures each way by itself, at fixed noise.
Source: SANA-Video and LongSANA (arXiv:2509.24695), their released training.
Shapes: B batch, C latent channels, T frames, h w latents, H W pixels, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Unpack, cast

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.dialect import USUAL
from sanakit.errors import SettingsError
from sanakit.flow.chunk_times import ChunkOrder, ChunkWay, mix_chunk_times
from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.few_step import LONG_SANA_CHUNK
from sanakit.flow.path import interpolate, velocity_target
from sanakit.images.sheets import contact_sheet, stack_sheets
from sanakit.models.video.held_frame import HeldFirstFrame, behind
from sanakit.models.video.sana_video import SanaVideo
from sanakit.pipelines.video.chunks import ChunkSampler, ClipPoint
from sanakit.pipelines.video.streaming import chunk_lengths, stream
from sanakit.seeds import further_seed, step_generator
from sanakit.text.encoder import TextEncoder
from sanakit.train.distill.given import NOTHING, Given
from sanakit.train.feeds.feed import Feed
from sanakit.train.objectives.flow_matching import TIMES_WATCHED, draw_latents
from sanakit.train.objectives.velocity import CaptionedVelocity, VelocityBatch, VelocitySettings, Watched
from sanakit.train.parts import Part

MIXING = 1  # which further random numbers decide how a clip is shown
STRIPS, HELD_STRIPS, COLUMNS = 6, 3, 9  # rows and frames of a sheet, below its middle frames


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipMixing:
    """How clips are shown. Raises SettingsError for a share outside [0, 1] or chunks without frames.

    held: share of the samples that begin with their first frame clean. in_chunks: share of the steps whose
    clips are in chunks. chunk: latent frames of a chunk; the first one has the remainder, too. order: of the
    chunks' times. alike, last, clean: shares of the samples in chunks whose chunks have one time, or are in
    the order of that name, instead; 1 in all at most.
    """

    held: float = 0.0
    in_chunks: float = 0.0
    chunk: int = LONG_SANA_CHUNK
    order: ChunkOrder = "incremental"
    alike: float = 0.0
    last: float = 0.0
    clean: float = 0.0

    def __post_init__(self) -> None:
        for name in ("held", "in_chunks", "alike", "last", "clean"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} = {getattr(self, name)!r}, but it must be a number from 0 to 1.")
        if self.alike + self.last + self.clean > 1:
            raise SettingsError(
                f"alike = {self.alike}, last = {self.last} and clean = {self.clean} are shares of the same "
                "samples: let them be 1 in all at most."
            )
        if self.chunk < 1:
            raise SettingsError(f"A chunk of {self.chunk} latent frames is empty: use at least 1.")

    @property
    def ways(self) -> list[tuple[ChunkWay, float]]:
        """The ways in which times of chunks are drawn, with their shares."""
        rest = 1 - self.alike - self.last - self.clean
        return [(self.order, rest), ("clean", self.clean), ("last", self.last), ("same", self.alike)]


@dataclass(frozen=True, slots=True, eq=False)
class ClipVelocityBatch(VelocityBatch):
    """A part of a global batch of clips, drawn. Its t is B T: a time for each frame."""

    held: Tensor = field(kw_only=True)  # B, true where the first frame is clean
    chunks: Sequence[int] | None = field(kw_only=True)  # frames of each chunk; None: all frames are one


class ClipObjective(CaptionedVelocity[SanaVideo]):
    """Velocity prediction of clips, on the transformer's device.

    feed: of latents B C T h w. mixing: how they are shown. settings: as for `CaptionedVelocity`; the sheet's
    shape is C T h w, its `decode` returns clips B 3 T H W.
    """

    def __init__(
        self,
        transformer: SanaVideo,
        encoder: TextEncoder,
        feed: Feed,
        *,
        mixing: ClipMixing,
        **settings: Unpack[VelocitySettings],
    ) -> None:
        super().__init__(transformer, encoder, feed, **settings)
        self.mixing = mixing

    def batch(self, step: int, part: Part) -> ClipVelocityBatch:
        """Draw samples, noise, the times of their frames, and how a part of a step's batch is shown."""
        drawn, mixing = super().batch(step, part), self.mixing
        frames, own = drawn.noise.shape[2], slice(part.start, part.stop)
        generator = step_generator(further_seed(self.seed, MIXING), step)
        of_step, *of_samples = torch.rand(1 + 2 * part.total, generator=generator, dtype=torch.float32)
        held, which = torch.stack(of_samples).view(2, -1)
        held = (held[own] < mixing.held).to(self.device) & (frames > 1)
        lengths = chunk_lengths(frames, mixing.chunk)
        chunks = lengths if len(lengths) > 1 and bool(of_step < mixing.in_chunks) else None
        t = drawn.t[:, None].repeat(1, frames)
        if chunks is not None:
            times = mix_chunk_times(1 - which, len(chunks), self.shift, generator, mixing.ways)[own]
            each = times.repeat_interleave(torch.tensor(chunks), dim=1).to(self.device)
            t = torch.where(each.isnan(), t, each)
        t[held, 0] = 0
        values = {one.name: getattr(drawn, one.name) for one in fields(drawn)}
        return ClipVelocityBatch(**{**values, "t": t}, held=held, chunks=chunks)

    def errors(self, batch: VelocityBatch, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the mean square error of each clip, B, over all frames but those that are held."""
        own = cast(ClipVelocityBatch, batch)
        return clip_errors(self.transformer, latents, own.noise, own.t, text, mask, chunks=own.chunks)

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure clips by caption, as images are; and where they are trained, behind a clean first frame
        ("held"), and in chunks ("chunks"), all at the same time."""
        measured = super().evaluate(averaged)
        transformer, encoder = self.parts(averaged)
        for one in self.watched:
            latents = one.latents.to(self.device)
            frames = latents.shape[2]
            ways: dict[str, tuple[bool, Sequence[int] | None]] = {}
            if self.mixing.held and frames > 1:
                ways["held"] = (True, None)
            if self.mixing.in_chunks and len(chunks := chunk_lengths(frames, self.mixing.chunk)) > 1:
                ways["chunks"] = (False, chunks)
            generator = torch.Generator().manual_seed(1)
            noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32).to(self.device)
            text, mask = encoder.encode_tokens(encoder.tokenize(one.captions, notes=[]))
            for way, (held, chunks) in ways.items():
                for time in TIMES_WATCHED:
                    t = latents.new_full((len(latents), frames), time)
                    t[:, :held] = 0
                    errors = clip_errors(transformer, latents, noise, t, text, mask, chunks=chunks)
                    measured[f"{one.name}{way}_{time}"] = errors.mean().item()
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw the middle frames of the sheet's prompts; below them every other frame of some of the clips.

        The last rows go on from the first frames of clips that are watched, where that is trained.
        """
        more = self._going_on(averaged) if self.mixing.held and self.watched else None
        return sheet_of_clips(self.drawn(averaged), more)

    def drawn(self, averaged: nn.Module) -> Tensor:
        """Draw the sheet's prompts, clip i from seed i; chunk after chunk if only that is trained."""
        transformer, encoder = self.parts(averaged)
        if self.mixing.in_chunks < 1 or not transformer.config.causal:
            return super().drawn(averaged)
        drawing = self.drawing
        _, frames, height, width = drawing.shape
        solver = FlowDPM(dpm_times(drawing.steps, self.shift))
        negative = transformer.prepare(encoder.encode_negative([""], dialect=USUAL))
        settings: dict[str, Any] = {"height": height, "width": width, "solver": solver}
        settings |= {"negative": negative, "guidance": drawing.guidance}
        sampler = ChunkSampler(transformer=transformer, **settings)
        clips: list[Tensor] = []
        for seed, features in enumerate(encoder.encode(list(drawing.prompts), notes=[])):
            prompt, start = [transformer.prepare([features])], ClipPoint.start(seed)
            chunks = stream(sampler, prompt, frames, start=start, chunk=self.mixing.chunk)
            clips.append(torch.cat([chunk.latents for chunk in chunks], dim=2))
        return drawing.decode(torch.cat(clips))

    def given(self, batch: VelocityBatch) -> Given:
        """Return what is known of a part's clips besides their text: nothing."""
        return NOTHING

    def given_of(self, watched: Watched) -> Given:
        """Return what is known of watched clips besides their text: nothing."""
        return NOTHING

    def _going_on(self, averaged: nn.Module) -> Tensor:
        """Draw clips that begin with the first frames of watched ones, B 3 T H W."""
        transformer, encoder = self.parts(averaged)
        watched, drawing = self.watched[0], self.drawing
        channels, frames, *sides = drawing.shape
        drawn: list[Tensor] = []
        for latents, caption in zip(watched.latents[:HELD_STRIPS], watched.captions, strict=False):
            first = latents[None, :, :1].to(self.device)
            model = HeldFirstFrame(transformer, first)
            settings = {"guidance": drawing.guidance, "steps": drawing.steps}
            shape = (channels, frames - 1, *sides)
            rest = draw_latents(model, encoder, [caption], shape, shift=self.shift, **settings)
            drawn.append(behind(first, rest))
        return drawing.decode(torch.cat(drawn))


def sheet_of_clips(clips: Tensor, more: Tensor | None = None) -> Image.Image:
    """Lay out the middle frames of clips, and below them every other frame of the first ones and of more.

    clips, more: B 3 T H W in [-1, 1]; of clips of one frame, nothing is laid out below.
    """
    middle = contact_sheet(clips[:, :, clips.shape[2] // 2], 8)
    if clips.shape[2] == 1:
        return middle
    rows = clips[:STRIPS] if more is None else torch.cat([clips[:STRIPS], more])
    shown = rows[:, :, ::2][:, :, :COLUMNS]
    strips = contact_sheet(shown.transpose(1, 2).flatten(0, 1), shown.shape[2])
    return stack_sheets([middle, strips])


def clip_errors(
    transformer: SanaVideo,
    latents: Tensor,
    noise: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    *,
    chunks: Sequence[int] | None,
) -> Tensor:
    """Return flow matching's mean square of each clip, B, as `frame_errors` does.

    latents, noise: B C T h w. t: B T, in [0, 1]. text: B L E. mask: B L, true where a token is real. chunks:
    frames of each, T in all; None: one.
    """
    noisy = interpolate(latents, noise, t[:, None, :, None, None])
    found = transformer(noisy, t, text, mask, chunks=chunks).float()
    return frame_errors(found, latents, noise, t)


def frame_errors(found: Tensor, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the mean square error of velocities (B C T h w) of each clip, B, over the frames learned.

    Frames at time 0 are given and count nothing: their noise cannot be known. A clip of such alone has 0.
    t: B T.
    """
    errors = (found - velocity_target(latents, noise)).square().mean((1, 3, 4))  # B T
    learned = (t > 0).to(errors)
    return (errors * learned).sum(1) / learned.sum(1).clamp(min=1)
