"""The clips of a checked request, chunk after chunk, by a causal model.

A request's features become each chunk's prompt, its solver and guidance the sampler (`chunks.py`), and the
chunks frames in the requested size as soon as they are decoded (`streaming.py`).
Shapes: one clip at a time; C channels, T frames of a chunk, h w latents; H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.dialect import CROSS_NORM_EPS
from sanakit.errors import SettingsError
from sanakit.images.image import Metadata, resize_and_crop, to_levels
from sanakit.models.contracts import VideoCodec
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video2 import SanaVideo2
from sanakit.models.weighted import weighted
from sanakit.pipelines.request import Request
from sanakit.pipelines.video.chunks import AfterBlock, ChunkSampler, ClipModel, ClipPoint
from sanakit.pipelines.video.request import ClipRequest
from sanakit.pipelines.video.result import ClipResult, ClipStep, LastClipStep
from sanakit.pipelines.video.streaming import LatentChunk, chunk_lengths, decoded, stream
from sanakit.text.prompt_weights import fitted
from sanakit.wording import counted


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClipChunk:
    """One finished chunk of a clip; stop iterating and the rest is never computed.

    To go on from here, keep the chunks of a clip without their frames: `latents` and `point` suffice.
    """

    pixels: Tensor | None  # T 3 H W, float32 in [-1, 1], in the requested size; None with output="latent"
    latents: Tensor  # 1 C t h w, normalised
    first: int  # number of its first latent frame in the clip
    point: ClipPoint  # behind it
    clip: int  # number of its clip in the call, from 0
    index: int  # 1 is the first of the call
    total: int  # chunks of the call
    settings: Metadata  # all it takes to draw its clip again, but for an image
    warnings: list[str]  # what the user should know, such as a prompt that was cut
    draw: Callable[[Tensor], Image.Image] = field(repr=False)  # latents C h w of one frame, small

    @property
    def frames(self) -> np.ndarray:
        """Return its frames, T H W 3, uint8. Raises SettingsError where they were not asked for."""
        if self.pixels is None:
            raise SettingsError('The chunk was drawn with output="latent": leave it out for frames.')
        return to_levels(self.pixels).numpy()

    def preview(self) -> Image.Image:
        """Show the middle of the chunk, as `ClipStep.preview` does."""
        return self.draw(self.latents[0, :, self.latents.shape[2] // 2])


def texts_of(request: ClipRequest) -> Request:
    """Return a request's sampling with the prompts of chunks, one after another, in place of the clips'."""
    assert request.chunks is not None, "the request is for a causal model"
    parts = [part for prompts in request.chunks.prompts for part in prompts]
    return replace(request.sampling, texts=parts)


def samplers(
    model: ClipModel,
    request: ClipRequest,
    features: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    after_block: AfterBlock | None,
) -> list[tuple[ChunkSampler, list[TextContext]]]:
    """Return what draws the clips of each prompt: their sampler, and the prompts of their chunks.

    features: L E, of `Request.nulls`, then of the prompts of chunks. weights: L, of these; None: all 1.
    """
    sampling, plan = request.sampling, request.chunks
    assert plan is not None, "the request is for a causal model"
    assert not isinstance(model, SanaVideo2), "it draws no chunks"

    def prepared(number: int, length: int | None = None) -> TextContext:
        text = features[number][:length]
        context = model.prepare([text], eps=CROSS_NORM_EPS[sampling.dialect])
        return weighted(context, fitted(weights[number], len(text)))

    found, number = [], len(sampling.nulls)
    for parts, null in zip(plan.prompts, sampling.negatives, strict=True):
        row = len(features[number]) if sampling.dialect == "native" else None
        negative = prepared(sampling.nulls.index(null), row) if sampling.guided else None
        guided = {} if negative is None else {"guidance": sampling.guidance, "kind": sampling.kind}
        assert sampling.solver is not None, "only a clip to redraw can take no step"
        sampler = ChunkSampler(
            transformer=model,
            height=sampling.cells.height,
            width=sampling.cells.width,
            solver=sampling.solver,
            negative=negative,
            after_block=after_block,
            **guided,
        )
        found.append((sampler, [prepared(number + part) for part in range(len(parts))]))
        number += len(parts)
    return found


def clip_chunks(
    codec: VideoCodec,
    samplers: list[tuple[ChunkSampler, list[TextContext]]],
    request: ClipRequest,
    first: Tensor | None,
    notes: list[str],
    draw: Callable[[Tensor], Image.Image],
) -> Iterator[ClipChunk]:
    """Yield the chunks of a request's clips, one clip after another.

    first: 1 C 1 h w, the latents of the image that they begin with. notes: of the result. draw: shows
    latents.
    """
    sampling, plan, index = request.sampling, request.chunks, 0
    assert plan is not None, "the request is for a causal model"
    each = [pair for pair, count in zip(samplers, sampling.counts, strict=True) for _ in range(count)]
    for clip, ((sampler, prompts), seed) in enumerate(zip(each, sampling.seeds, strict=True)):
        start = plan.start or ClipPoint.start(seed)
        frames = sampling.cells.frames - start.frames
        drawn = stream(sampler, prompts, frames, start=start, chunk=plan.length, image=first)
        for pixels, chunk in pixel_chunks(codec, chain(plan.after, drawn), request):
            if chunk.first < start.frames:  # the decoder alone needs it again
                continue
            index += 1
            yield ClipChunk(
                pixels=pixels,
                latents=chunk.latents,
                first=chunk.first,
                point=chunk.point,
                clip=clip,
                index=index,
                total=plan.count * len(each),
                settings=request.metadata[clip],
                warnings=notes,
                draw=draw,
            )


def going_on(request: ClipRequest, after: Sequence[ClipChunk], seed: int | None) -> ClipRequest:
    """Return a request that goes on behind all chunks of a clip. seed: None: its random numbers go on.

    Raises SettingsError for chunks that leave nothing to draw, and for an image or more prompts than chunks.
    """
    plan, point, total = request.chunks, after[-1].point, request.sampling.cells.frames
    assert plan is not None, "the request is for a causal model"
    if request.first is not None:
        raise SettingsError("A clip that is gone on with has its first frame: omit the image.")
    if after[0].first or sum(chunk.latents.shape[2] for chunk in after) != point.frames:
        raise SettingsError("The chunks to go on from are not whole: pass all of a clip, from its first on.")
    if total <= point.frames:
        raise SettingsError(
            f"The clip has {point.frames} latent frames already, of {total} in all: ask for more frames."
        )
    count = len(chunk_lengths(total - point.frames, plan.length))
    if len(plan.prompts[0]) > count:
        raise SettingsError(
            f"{len(plan.prompts[0])} prompts came for {counted(count, 'chunk')} to draw: pass at "
            f"most {count}."
        )
    told = {name: value for name, value in request.metadata[0].items() if seed is not None or name != "seed"}
    told["begins_with"] = "a clip"
    before = tuple(LatentChunk(chunk.latents, chunk.first, True, chunk.point) for chunk in after)
    start = point if seed is None else point.with_seed(seed)
    return replace(
        request,
        sampling=replace(request.sampling, metadata=[told]),
        chunks=replace(plan, count=count, after=before, start=start),
    )


def pixel_chunks(
    codec: VideoCodec, chunks: Iterable[LatentChunk], request: ClipRequest
) -> Iterator[tuple[Tensor | None, LatentChunk]]:
    """Yield each chunk with its frames, T 3 H W in [-1, 1], in the requested size; None: not asked for."""
    if request.output == "latent":
        for chunk in chunks:
            yield None, chunk
        return
    for frames, chunk in decoded(codec, chunks):
        yield resize_and_crop(frames[0].float().transpose(0, 1), *request.sampling.size), chunk


def steps_of(chunks: Iterator[ClipChunk], request: ClipRequest) -> Iterator[ClipStep]:
    """Yield a step for each chunk, whose latents are its own; the last one carries the whole clips."""
    started, kept = perf_counter(), [list[Any]() for _ in request.metadata]
    for chunk in chunks:
        if request.output == "clip":
            kept[chunk.clip].append(chunk.frames)
        elif request.output == "latent":
            kept[chunk.clip].append(chunk.latents.cpu())
        else:
            assert chunk.pixels is not None, "they were asked for"
            kept[chunk.clip].append(chunk.pixels.clamp(-1, 1).transpose(0, 1).cpu())
        step = ClipStep(
            index=chunk.index, total=chunk.total, latents=chunk.latents, clean=chunk.latents, draw=chunk.draw
        )
        if chunk.index < chunk.total:
            yield step
            continue
        if request.output == "clip":
            clips: list[VideoClip] | Tensor = [
                VideoClip(frames=np.concatenate(frames), rate=request.rate, settings=settings)
                for frames, settings in zip(kept, request.metadata, strict=True)
            ]
        elif request.output == "latent":
            clips = torch.cat([torch.cat(latents, dim=2) for latents in kept])
        else:
            clips = torch.stack([torch.cat(pixels, dim=1) for pixels in kept])
        result = ClipResult(
            clips=clips,
            seeds=request.sampling.seeds,
            timings={"chunks": perf_counter() - started},
            metadata=request.metadata,
            warnings=chunk.warnings,
        )
        yield LastClipStep(
            index=step.index,
            total=step.total,
            latents=step.latents,
            clean=step.clean,
            draw=step.draw,
            drawn=result,
        )
