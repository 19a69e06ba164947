"""Samples as latents on the disk, encoded once: what the transformer learns from.

A folder: samples.jsonl (one sample a line), WxH.npy per size (float16, N C h w, unscaled), pool.json (what it
was made of). It is made in pieces and resumed; pool.json is written last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from sanakit.errors import DataError
from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE
from sanakit.pocket.data.canvas import Placement
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.data.samples import PocketSample, by_size, render
from sanakit.pocket.data.scenes import Scenes
from sanakit.whole import written_whole

BATCH = 16  # images encoded at once
TOLD_EVERY = 20.0  # seconds
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """An opened pool. latents: by size, memory-mapped, in the order of `indices` into samples."""

    samples: list[PocketSample]
    latents: dict[tuple[int, int], np.ndarray]
    indices: dict[tuple[int, int], list[int]]


def build_pool(
    folder: Path, samples: Sequence[PocketSample], pocket: PocketImages, scenes: Scenes, codec: DCAE
) -> Pool:
    """Encode samples into a folder, or open it where that was done for the same samples and codec.

    Raises DataError for a folder with another pool in it.
    """
    made_of = {"samples": _digest(samples), "codec": _codec_digest(codec)}
    done = folder / "pool.json"
    if done.exists():
        if json.loads(done.read_text()) != made_of:
            raise DataError(f"{folder} holds other samples or another codec's: choose another folder.")
        return open_pool(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "samples.jsonl") as partial:
        partial.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in samples), encoding="utf-8")
    told, count = time.monotonic(), 0
    for size, indices in by_size(list(samples)):
        file = _file(folder, size)
        if file.exists():
            count += len(indices)
            continue
        width, height = size
        compression, channels = codec.config.compression, codec.config.latent_channels
        latents = np.empty((len(indices), channels, height // compression, width // compression), np.float16)
        for start in range(0, len(indices), BATCH):
            some = indices[start : start + BATCH]
            pictures = np.stack([render(samples[i], pocket, scenes) for i in some])
            with torch.no_grad():
                latents[start : start + len(some)] = codec.encode(to_tensor(pictures)).numpy()
            count += len(some)
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                log.info("Encoding samples: %s of %s", f"{count:,}", f"{len(samples):,}")
        with written_whole(file) as partial, partial.open("wb") as stream:
            np.save(stream, latents)
    with written_whole(done) as partial:
        partial.write_text(json.dumps(made_of), encoding="utf-8")
    return open_pool(folder)


def open_pool(folder: Path) -> Pool:
    """Open a finished pool. Raises DataError where there is none."""
    if not (folder / "pool.json").exists():
        raise DataError(f"{folder} holds no finished pool of latents: build it first.")
    samples = []
    for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        fields |= {"placement": Placement(**fields["placement"]), "size": tuple(fields["size"])}
        samples.append(PocketSample(**fields))
    indices = dict(by_size(samples))
    return Pool(samples, {size: np.load(_file(folder, size), mmap_mode="r") for size in indices}, indices)


def join_pools(pools: Sequence[Pool]) -> Pool:
    """Return pools as one, in memory; all describe rows and scenes of the same data."""
    samples: list[PocketSample] = []
    latents: dict[tuple[int, int], list[np.ndarray]] = {}
    indices: dict[tuple[int, int], list[int]] = {}
    for pool in pools:
        for size, own in pool.indices.items():
            latents.setdefault(size, []).append(pool.latents[size])
            indices.setdefault(size, []).extend(len(samples) + i for i in own)
        samples += pool.samples
    return Pool(samples, {size: np.concatenate(parts) for size, parts in latents.items()}, indices)


def _file(folder: Path, size: tuple[int, int]) -> Path:
    return folder / f"{size[0]}x{size[1]}.npy"


def _digest(samples: Sequence[PocketSample]) -> str:
    return hashlib.sha256("\n".join(map(str, samples)).encode()).hexdigest()


def _codec_digest(codec: DCAE) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(codec.state_dict().items()):
        if name.startswith("encoder"):
            digest.update(value.float().numpy().tobytes())
    return digest.hexdigest()
