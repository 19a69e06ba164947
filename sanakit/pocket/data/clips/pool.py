"""Samples of pocket-video as latents on the disk, encoded once by a finished autoencoder.

A folder: started.json (what it is made of: samples, data, autoencoder), KIND-NNNNN.npy (float16, N C t h w,
not normalised, some hundred samples of one kind), pool.json (as started.json, written last). It is made piece
by piece and resumed; pieces of another pool are refused.
Shapes: N samples, C t h w latents.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from sanakit.errors import DataError
from sanakit.images.image import to_tensor
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.data.clips.dataset import PocketClips
from sanakit.pocket.data.clips.samples import ClipSample, Kind, render
from sanakit.pocket.data.dataset import PocketImages
from sanakit.weights.fingerprint import weights_sha256
from sanakit.whole import written_whole

STARTED, DONE = "started.json", "pool.json"
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
        "samples": hashlib.sha256("\n".join(map(str, samples)).encode()).hexdigest(),
        "data": [clips.fingerprint, *([] if drawings is None else [drawings.fingerprint])],
        "codec": [weights_sha256(codec.encoder), weights_sha256(codec.quant_conv)],
    }
    started, done = folder / STARTED, folder / DONE
    for file in (started, done):
        if file.exists() and json.loads(file.read_text(encoding="utf-8")) != made_of:
            raise DataError(
                f"{folder} holds other samples, or another autoencoder's: choose another --output, or delete "
                "it."
            )
    folder.mkdir(parents=True, exist_ok=True)
    if not done.exists():
        _write(started, made_of)
    pool: dict[str, Tensor] = {}
    for kind in get_args(Kind):
        own = [sample for sample in samples if sample.kind == kind]
        pieces = [own[first : first + PIECE] for first in range(0, len(own), PIECE)]
        files = [folder / f"{kind}-{number:05d}.npy" for number in range(len(pieces))]
        told = time.monotonic()
        for number, (file, piece) in enumerate(zip(files, pieces, strict=True)):
            if not file.exists():
                _encode(file, piece, clips, drawings, codec)
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                log.info("Encoding %s clips: %s of %s files", kind, number + 1, len(files))
        if files:
            latents = torch.from_numpy(np.concatenate([np.load(file) for file in files])).float()
            pool[kind] = codec.normalise(latents)
    if not done.exists():
        _write(done, made_of)
    return pool


def encode_frames(codec: WanVAE, frames: Sequence[np.ndarray]) -> Tensor:
    """Return the latents of clips (T S S 3 uint8 each, of one length), N C t h w, not normalised."""
    weight = next(codec.parameters())
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        encoded = [
            codec.encode(to_tensor(one).transpose(0, 1)[None].to(weight)).float().cpu() for one in frames
        ]
    return torch.cat(encoded)


def _encode(
    file: Path,
    samples: Sequence[ClipSample],
    clips: PocketClips,
    drawings: PocketImages | None,
    codec: WanVAE,
) -> None:
    latents = encode_frames(codec, [render(sample, clips, drawings) for sample in samples])
    with written_whole(file) as partial, partial.open("wb") as stream:
        np.save(stream, latents.numpy().astype(np.float16))


def _write(file: Path, made_of: dict[str, object]) -> None:
    with written_whole(file) as partial:
        partial.write_text(json.dumps(made_of), encoding="utf-8")
