"""Samples of pocket-video as latents on the disk, encoded once by a finished autoencoder.

A folder: started.json (what it is made of: samples, data, autoencoder), KIND-NNNNN.npy (float16, N C t h w,
not normalised, some hundred samples of one kind), pool.json (as started.json, written last). It is made piece
by piece and resumed; pieces of another pool are refused.
Shapes: N samples, C t h w latents.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from sanakit.images.image import to_tensor
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.data.clips.dataset import PocketClips
from sanakit.pocket.data.clips.samples import ClipSample, Kind, render
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.data.pool import begin_pool, digest, end_pool, save_latents
from sanakit.weights.fingerprint import weights_sha256

PIECE = 256  # samples of a file
TOLD_EVERY = 20.0  # seconds
log = logging.getLogger(__name__)


def build_clip_pool(
    folder: Path,
    samples: Sequence[ClipSample],
    clips: PocketClips,
    drawings: PocketImages | None,
    codec: WanVAE,
) -> dict[str, Tensor]:
    """Encode samples into a folder, or open it where that was done; return normalised latents by kind.

    They are N C t h w each, float32, in the order of the samples of that kind; a kind without samples is
    left out. Raises DataError for a folder with another pool in it.
    """
    assert codec.encoder is not None
    made_of = {
        "samples": digest(samples),
        "data": [clips.fingerprint, *([] if drawings is None else [drawings.fingerprint])],
        "codec": [weights_sha256(codec.encoder), weights_sha256(codec.quant_conv)],
    }
    finished = begin_pool(folder, made_of)
    pool: dict[str, Tensor] = {}
    for kind in get_args(Kind):
        own = [sample for sample in samples if sample.kind == kind]
        pieces = [own[first : first + PIECE] for first in range(0, len(own), PIECE)]
        files = [folder / f"{kind}-{number:05d}.npy" for number in range(len(pieces))]
        told = time.monotonic()
        for number, (file, piece) in enumerate(zip(files, pieces, strict=True)):
            if not file.exists():
                frames = [render(sample, clips, drawings) for sample in piece]
                save_latents(file, encode_frames(codec, frames))
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                log.info("Encoding %s clips: %s of %s files", kind, number + 1, len(files))
        if files:
            latents = torch.from_numpy(np.concatenate([np.load(file) for file in files])).float()
            pool[kind] = codec.normalise(latents)
    if not finished:
        end_pool(folder, made_of)
    return pool


def encode_frames(codec: WanVAE, frames: Sequence[np.ndarray]) -> Tensor:
    """Return the latents of clips (T S S 3 uint8 each, of one length), N C t h w, not normalised."""
    weight = next(codec.parameters())
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        encoded = [
            codec.encode(to_tensor(one).transpose(0, 1)[None].to(weight)).float().cpu() for one in frames
        ]
    return torch.cat(encoded)
