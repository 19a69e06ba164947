"""Latents to the clips of a request, a few frames at a time.

Shapes: B clips, C latent channels, t h w latents, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.images.image import resize_and_crop, to_levels
from sanakit.models.contracts import VideoCodec
from sanakit.models.video.frame_rule import chunk_sizes
from sanakit.pipelines.video.request import ClipRequest

GROUP = 4  # frames that are checked and brought to 8 bits at a time


def decode_frames(codec: VideoCodec, latents: Tensor, chunk: int | None) -> Iterator[Tensor]:
    """Yield the frames of one clip as they are decoded, a few at a time: 1 3 T H W in [-1, 1], first to last.

    latents: 1 C t h w, as the transformer sees them, on the autoencoder's device and in its dtype. chunk:
    latents that are decoded at a time after the first one; None: all.
    """
    scaled = codec.denormalise(latents)
    if chunk is None:
        yield from codec.decode(scaled).split(GROUP, dim=2)
        return
    for frames in codec.decode_stream(scaled.split(chunk_sizes(scaled.shape[2], chunk), dim=2)):
        yield from frames.split(GROUP, dim=2)


def collect_clips(clips: Iterable[Iterable[Tensor]], request: ClipRequest) -> list[VideoClip] | Tensor:
    """Return a request's clips, "clip" or "pt", in the requested size.

    clips: the frames of each clip, one after another, 3 T H W in [-1, 1]. But for a few frames at a time they
    never exist in more than 8 bits.
    """
    (height, width), count = request.sampling.size, len(request.metadata)
    if request.output == "pt":
        pixels = torch.empty(count, 3, request.frames, height, width, dtype=torch.float32)
    else:
        pixels = torch.empty(count, request.frames, height, width, 3, dtype=torch.uint8)
    for number, clip in enumerate(clips):
        start = 0
        for frames in clip:
            fitted = resize_and_crop(frames.transpose(0, 1), height, width)  # T 3 H W
            end = start + len(fitted)
            if request.output == "pt":
                pixels[number, :, start:end] = fitted.clamp(-1, 1).transpose(0, 1).cpu()
            else:
                pixels[number, start:end] = to_levels(fitted)
            start = end
    if request.output == "pt":
        return pixels
    levels: np.ndarray = pixels.numpy()
    return [
        VideoClip(frames=frames, rate=request.rate, settings=settings)
        for frames, settings in zip(levels, request.metadata, strict=True)
    ]
