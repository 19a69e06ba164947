"""The memory that drawing clips takes: weights of the parts, and the frames that are decoded at a time.

Text encoder, transformer and autoencoder work one after the other, in the stages of images
(`pipelines/memory.py`). The clip is denoised whole. Up to `WHOLE_BYTES` it is decoded in chunks that the
autoencoder chooses; a longer one in chunks of `CHUNK` latents, so that memory does not grow with its length.
Shapes: C latent channels, t h w latents, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sanakit.models.contracts import ModelPart, VideoCodec
from sanakit.pipelines.memory import SMALL, MemoryPlan, Residence, available_bytes
from sanakit.weights import mapped_bytes

WHOLE_BYTES = 2**30  # of a decoded clip in float32
CHUNK = 4  # latents along time that are decoded at a time beyond that, after the first


def choose_plan(transformer: ModelPart, *others: ModelPart, device: torch.device) -> MemoryPlan:
    """Return the plan for when the weights of a model's parts are in memory.

    On a CPU: always, if they are small; else each part for its stage, and of a transformer that takes more
    than half of what is free one block at a time. Elsewhere: always, unless the parts wait outside for their
    stage. Bands of rows and a budget, which the plans of images have, are not part of it: both are 0.
    """
    return MemoryPlan(_residence(transformer, others, device), band=0, peak=0)


def _residence(transformer: ModelPart, others: tuple[ModelPart, ...], device: torch.device) -> Residence:
    if device.type != "cpu":
        return "resident" if next(transformer.parameters()).device == device else "staged"
    own = mapped_bytes(transformer)
    if own + sum(map(mapped_bytes, others)) < SMALL:
        return "resident"
    return "layered" if own > available_bytes(device) / 2 else "staged"


def decode_frames(codec: VideoCodec, latents: Tensor) -> Iterator[Tensor]:
    """Yield the frames of one clip as they are decoded: 1 3 T H W in [-1, 1], first to last.

    latents: 1 C t h w, as the transformer sees them, on the autoencoder's device and in its dtype.
    """
    scaled, config = codec.denormalise(latents), codec.config
    pixels = config.compression**2 * latents.shape[3] * latents.shape[4]
    if 12 * pixels * config.frame_rule.frames(latents.shape[2]) <= WHOLE_BYTES:
        yield codec.decode(scaled)
    else:
        yield from codec.decode_stream([scaled[:, :, :1], *scaled[:, :, 1:].split(CHUNK, dim=2)])
