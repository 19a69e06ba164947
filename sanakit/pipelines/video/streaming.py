"""Clips of any length, chunk after chunk, in memory that does not grow with them.

    chunks = stream(sampler, [prompt], frames=241, start=seed)
    for frames, chunk in decoded(codec, chunks):  # B 3 T H W in [-1, 1], as soon as they are drawn

A clip can begin with an image, whose latents are its first frame, or with finished latents of another clip.
Those pass through the transformer chunk by chunk and become the past of what is drawn. Each chunk comes with
the point behind it, from which a later call goes on.
Source: LongSANA (arXiv:2509.24695) and its released samplers.
Shapes: one clip; C channels, T frames of a chunk, h w latents; H W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.errors import NumericsError, SettingsError
from sanakit.flow.few_step import LONG_SANA_CHUNK
from sanakit.models.contracts import VideoCodec
from sanakit.models.sana import TextContext
from sanakit.pipelines.memory import memory_limit
from sanakit.pipelines.video.chunks import ChunkSampler, ClipPoint
from sanakit.wording import counted


def chunk_lengths(frames: int, chunk: int = LONG_SANA_CHUNK) -> list[int]:
    """Return the latent frames of each chunk: `chunk` of them, and in the first one the remainder too.

    frames: in all. Fewer than two chunks' worth are one chunk. Raises SettingsError for numbers below 1.

    >>> chunk_lengths(21), chunk_lengths(41), chunk_lengths(7), chunk_lengths(5, chunk=2)
    ([11, 10], [11, 10, 10, 10], [7], [3, 2])
    """
    if frames < 1 or chunk < 1:
        raise SettingsError(
            f"A clip of {frames} latent frames in chunks of {chunk} is impossible: both must be at least 1."
        )
    count = max(1, frames // chunk)
    return [frames - chunk * (count - 1)] + [chunk] * (count - 1)


@dataclass(frozen=True, slots=True, eq=False)
class LatentChunk:
    """One chunk of a clip.

    latents: 1 C T h w, normalised. first: the number of its first latent frame in the clip. given: whether it
    was part of the existing clip. point: the point behind it; keep it only to come back to it.
    """

    latents: Tensor
    first: int
    given: bool
    point: ClipPoint


def stream(
    sampler: ChunkSampler,
    prompts: Sequence[TextContext],
    frames: int,
    *,
    start: int | ClipPoint,
    chunk: int = LONG_SANA_CHUNK,
    image: Tensor | None = None,
    given: Tensor | None = None,
) -> Iterator[LatentChunk]:
    """Return the chunks of a clip; each is drawn when it is asked for.

    prompts: one for each chunk to draw; the last one is for all that follow. frames: latent frames to draw.
    start: a seed, or the point to go on from. chunk: latent frames of a chunk. image: 1 C 1 h w, normalised
    latents that are the first of these frames. given: 1 C T h w, those of an existing clip; its chunks come
    first, under the first prompt.
    All is checked at once. Raises SettingsError or SizeError; the iterator raises as `ChunkSampler.draw`.
    """
    point = ClipPoint.start(start) if isinstance(start, int) else start
    lengths = chunk_lengths(frames, chunk)
    if not prompts or len(prompts) > len(lengths):
        raise SettingsError(
            f"{len(prompts)} prompts came for {counted(len(lengths), 'chunk')} of {chunk} latent frames: "
            f"pass from 1 to {len(lengths)}, or draw more frames."
        )
    if (image is not None) + (given is not None) + bool(point.frames) > 1:
        raise SettingsError(
            "A clip begins with an image, with given latents or at a point of another clip: pass one of them."
        )
    if image is not None and (sampler.checked(image).shape[2] != 1 or lengths[0] == 1):
        raise SettingsError(
            f"An image of {image.shape[2]} latent frames came for {frames} frames to draw: pass one latent "
            "frame, and draw at least two."
        )
    before = [] if given is None else chunk_lengths(sampler.checked(given).shape[2], chunk)
    sampler.check(point, before + lengths, prompts)
    pieces = [] if given is None else given.split(before, dim=2)
    return _stream(sampler, list(prompts), lengths, point, image, pieces)


def _stream(
    sampler: ChunkSampler,
    prompts: list[TextContext],
    lengths: list[int],
    point: ClipPoint,
    known: Tensor | None,
    given: Sequence[Tensor],
) -> Iterator[LatentChunk]:
    for latents in given:
        first, point = point.frames, sampler.follow(point, latents, prompts[0])
        yield LatentChunk(latents, first, True, point)
    for number, length in enumerate(lengths):
        first, prompt = point.frames, prompts[min(number, len(prompts) - 1)]
        latents, point = sampler.draw(point, length, prompt, known if number == 0 else None)
        yield LatentChunk(latents, first, False, point)


@torch.no_grad()
def decoded(codec: VideoCodec, chunks: Iterable[LatentChunk]) -> Iterator[tuple[Tensor, LatentChunk]]:
    """Yield the frames of each chunk, 1 3 T H W in [-1, 1], and the chunk, as soon as it is drawn.

    codec: one that decodes without waiting for later chunks, such as `WanVAE`. chunks: from a clip's first
    one on, since frames depend on the latents before them. To go on from a point, put the chunks before it
    first.
    Raises NumericsError, MemoryLimitError, and SettingsError for another codec.
    """
    rule, reached = codec.config.frame_rule, 0
    waiting: deque[LatentChunk] = deque()

    def latents() -> Iterator[Tensor]:
        nonlocal reached
        for chunk in chunks:
            if chunk.first != reached:
                raise SettingsError(
                    f"A chunk begins at latent frame {chunk.first}, but {reached} is the next to decode: "
                    "pass all chunks of a clip, from its first one on."
                )
            reached += chunk.latents.shape[2]
            waiting.append(chunk)
            yield codec.denormalise(chunk.latents).to(codec.dtype)

    clip = codec.decode_stream(latents())
    while True:
        with memory_limit("decoding a chunk: take a smaller size or shorter chunks"):
            frames = next(clip, None)
        if frames is None:
            return
        chunk = waiting.popleft()
        count = rule.per_latent * chunk.latents.shape[2] - (0 if chunk.first else rule.per_latent - 1)
        if frames.shape[2] != count:
            raise SettingsError(
                f"The autoencoder gave {frames.shape[2]} frames for a chunk of {count}: it cannot decode "
                "chunks as they come. Decode the whole clip instead."
            )
        if not bool(torch.isfinite(frames).all()):
            raise NumericsError(
                f"The frames of latent frame {chunk.first} and later became NaN or infinity: load the "
                "autoencoder in float32, or check its weights."
            )
        yield frames, chunk
