"""Memory planning for clips: which parts are loaded when, and how many latents are decoded at a time.

Text encoder, transformer and autoencoder work one after the other, in the stages of images
(`pipelines/memory.py`); a causal model's transformer and autoencoder take turns, chunk after chunk. A clip is
denoised whole. It is decoded whole where that fits, else in chunks of a few latents, each frame of which
becomes 8 bits at once: memory then grows with its length by 3 bytes a pixel.
The estimates cover the whole process, as those of images do; those of autoencoders are `decode_bytes` and
`encode_bytes` of `VideoCodec`.
Shapes: B clips, C latent channels, t h w latents, T frames, H W pixels.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from sanakit.errors import MemoryLimitError
from sanakit.models.contracts import BlockModel, LanguageModel, LatentShape, VideoCodec
from sanakit.pipelines.memory import (
    SLACK,
    SMALL,
    STEP_WORK,
    TEXT_WORK,
    Budget,
    MemoryPlan,
    Residence,
    Weights,
    available_bytes,
    in_words,
    resident_bytes,
)
from sanakit.pipelines.video.decoding import GROUP
from sanakit.pipelines.video.request import ClipRequest
from sanakit.wording import counted

CHUNKS = (4, 2, 1)  # latents along time that are decoded at a time where the whole does not fit
MOST_WHOLE = 2**30  # bytes of a decoded clip in float32 up to which it is decoded whole, if that fits
COPIES = 5  # of the tokens in a step, one more for several samples: measured, 4.3 and 5.6
_APART = 1 << 20  # bytes from which on glibc maps a block on its own, and gives it back when it is freed
_USUAL = 32 << 20  # where glibc ends up by itself
_M_MMAP_THRESHOLD = -3  # of mallopt(3)


@dataclass(frozen=True, slots=True)
class ClipPlan(MemoryPlan):
    """The plan for drawing one request of clips; `band` is not used.

    chunk: latents that are decoded at a time after the first one; None: all.
    """

    chunk: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipWork:
    """The work of one call, in sizes.

    cells: latents of one clip. samples: clips that are denoised together, those for guidance included; 0:
    none. encoded: frames that are encoded. results: bytes of the result for a pixel of a frame, of all clips.
    length: latents of a causal model's chunk, with those before it that it is decoded with; None: not causal.
    """

    cells: LatentShape
    samples: int = 0
    encoded: int = 0
    results: int = 0
    length: int | None = None

    @classmethod
    def of(cls, request: ClipRequest) -> ClipWork:
        """Take it from a checked request."""
        sampling = request.sampling
        clips = 0 if request.output == "latent" else len(request.metadata)
        encoded = 1 if request.first is not None else 0
        if request.source is not None:
            encoded = request.frames
        return cls(
            cells=sampling.cells,
            samples=(1 if request.chunks else len(request.metadata)) * sampling.branches,
            encoded=encoded,
            results=clips * (12 if request.output == "pt" else 3),
            length=None if request.chunks is None else request.chunks.length,
        )


class ClipPlanner:
    """Chooses how to draw each call with one model's parts within a budget.

    patch: latents of a token, along one side. sizes: width and height in pixels of those that the model
    learned; none: it draws any. device: where the parts compute; they may wait elsewhere. budget: see
    `parse_budget`.
    """

    def __init__(
        self,
        transformer: BlockModel,
        autoencoder: VideoCodec,
        text: LanguageModel,
        *,
        patch: int,
        sizes: Sequence[tuple[int, int]],
        device: torch.device,
        budget: Budget,
    ) -> None:
        self.on_cpu = device.type == "cpu"
        self.weights = Weights.of(transformer, autoencoder, text, mapped=self.on_cpu)
        self.codec, self.width, self.patch = autoencoder, transformer.config.width, patch
        self.hidden = int(self.width * transformer.config.mlp_ratio)
        self.sizes, self.device, self.budget = sizes, device, budget
        self.base = resident_bytes() if self.on_cpu else 0
        self.residences: tuple[Residence, ...] = ("resident", "staged", "layered")
        if not self.on_cpu:
            waiting = next(transformer.parameters()).device != device
            self.residences = ("staged",) if waiting else ("resident",)

    def plan(self, work: ClipWork, available: int | None = None) -> ClipPlan:
        """Choose the fastest way to draw within the budget.

        available: bytes that the process may still take, which is what "auto" allows; None: look. Raises
        MemoryLimitError, which names the smallest sufficient budget, and the frames and the size that fit.
        """
        if self.budget == "all":
            return self._planned(work, self.residences[0], self._chunks(work)[0])
        free = available_bytes(self.device) if available is None else available
        limit = self.budget if isinstance(self.budget, int) else self.base + free
        if plan := self._within(work, limit):
            return plan
        if self.budget == "auto":  # estimates are careful, and the system may make room: try before refusing
            return self._least(work)
        raise MemoryLimitError(self._refusal(work, limit))

    def _within(self, work: ClipWork, limit: int) -> ClipPlan | None:
        weights = self.weights
        small = weights.text + weights.transformer + weights.decoder < SMALL
        give_back = self.on_cpu and self.budget == "auto" and not small
        ways = (
            self._planned(work, residence, chunk)
            for residence in self.residences[give_back:]
            for chunk in self._chunks(work)
        )
        return next((plan for plan in ways if plan.peak <= limit), None)

    def _least(self, work: ClipWork) -> ClipPlan:
        ways = (self._planned(work, self.residences[-1], chunk) for chunk in self._chunks(work))
        return min(ways, key=lambda plan: plan.peak)

    def _chunks(self, work: ClipWork) -> tuple[int | None, ...]:
        """Return the ways to decode, the preferred one first; a causal model's chunks are as they come."""
        height, width = self._pixels(work.cells)
        frames = self.codec.config.frame_rule.frames(work.cells.frames)
        whole = work.length is None and 12 * frames * height * width <= MOST_WHOLE
        return (None, *CHUNKS) if whole or work.length is not None else (*CHUNKS, None)

    def _planned(self, work: ClipWork, residence: Residence, chunk: int | None) -> ClipPlan:
        return ClipPlan(residence, 0, self._peak(work, residence, chunk), chunk)

    def _pixels(self, cells: LatentShape) -> tuple[int, int]:
        side = self.codec.config.compression
        return cells.height * side, cells.width * side

    def _peak(self, work: ClipWork, residence: Residence, chunk: int | None) -> int:
        """Estimate the most bytes that the process holds at a time."""
        weights, cells, codec = self.weights, work.cells, self.codec
        height, width = self._pixels(cells)
        drawn = cells.frames if work.length is None else min(cells.frames, work.length + 1)
        tokens = drawn * cells.height * cells.width // self.patch**2
        hidden = 0 if self.on_cpu else 3 * self.hidden  # a CPU takes bands of those
        values = (COPIES + (work.samples > 1)) * self.width + hidden
        step = work.samples * tokens * values * 4 + STEP_WORK if work.samples else 0
        encode = codec.encode_bytes(work.encoded, height, width) if work.encoded else 0
        chunk = chunk if work.length is None else drawn
        decode = codec.decode_bytes(cells.frames, height, width, chunk)
        given = GROUP if work.length is None else codec.config.frame_rule.per_latent * drawn
        decode += 3 * 12 * given * height * width  # frames on their way to the result
        results = work.results * height * width * codec.config.frame_rule.frames(cells.frames)
        both = work.length is not None  # transformer and autoencoder take turns within a stage
        if residence == "resident":
            everything = weights.text + weights.transformer + weights.decoder
            busy = step + decode if both else max(step, decode)
            return self.base + SLACK + everything + max(TEXT_WORK, busy, encode) + results
        text = 2 * weights.text_layer if self.on_cpu else weights.text  # one runs, one is being read
        blocks = weights.transformer if residence == "staged" else 3 * weights.block
        denoised, decoded = blocks + step, weights.decoder + decode
        busy = denoised + decoded if both else max(denoised, decoded)
        return self.base + SLACK + max(text + TEXT_WORK, weights.decoder + encode, busy) + results

    def _refusal(self, work: ClipWork, limit: int) -> str:
        rule, cells = self.codec.config.frame_rule, work.cells
        height, width = self._pixels(cells)
        size, frames = f"of {width}x{height} px", rule.frames(cells.frames)
        what = counted(frames, f"frame {size} does", f"frames {size} do")
        enough = in_words(self._least(work).peak * 103 // 100)  # another process may begin with a little more

        def fits(shape: LatentShape) -> bool:
            encoded = min(work.encoded, rule.frames(shape.frames))
            return self._least(replace(work, cells=shape, encoded=encoded)).peak <= limit

        told = []
        fewer = (replace(cells, frames=frames) for frames in range(cells.frames - 1, 0, -1))
        if shape := next(filter(fits, fewer), None):
            told.append(counted(rule.frames(shape.frames), "frame"))
        if shape := next(filter(fits, self._smaller(cells)), None):
            height, width = self._pixels(shape)
            told.append(f"{width}x{height} px")
        instead = f", or draw {' or '.join(told)}" if told else ""
        return f"{what} not fit in {in_words(limit)}: allow at least {enough}{instead}."

    def _smaller(self, cells: LatentShape) -> Iterator[LatentShape]:
        """Yield other sizes of clips, the largest first: those that it learned, or any of this shape."""
        side = self.codec.config.compression
        if self.sizes:
            for width, height in sorted(self.sizes, key=lambda size: -size[0] * size[1]):
                yield replace(cells, height=height // side, width=width // side)
            return
        for rows in range(cells.height // self.patch - 1, 0, -1):
            columns = max(1, cells.width * rows // cells.height)
            yield replace(cells, height=self.patch * rows, width=self.patch * columns)


@contextmanager
def blocks_given_back() -> Iterator[None]:
    """Have glibc give every large block back as soon as it is freed, while an autoencoder works.

    Its many activations of similar sizes otherwise leave holes in the heap as large as themselves: 231 MB
    in place of 110 for 33 frames of a narrow decoder, in the same time. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_THRESHOLD, _APART)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _USUAL)
