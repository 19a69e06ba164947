"""Samples as latents on the disk, encoded once: what the transformer learns from.

A folder: started.json (what it is made of: samples, rows of the data set, codec), samples.jsonl (one sample a
line), WxH.npy per size (float16, N C h w, unscaled), pool.json (as started.json, written last). It is made
size by size and resumed; pieces of another pool are refused. hints-KIND-DIGEST-WxH.npy: their hints for
a ControlNet as latents, where one was trained on them; the digest is that of the first hint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from sanakit.errors import DataError
from sanakit.images.hints import HintKind, make_hint
from sanakit.models.dc_ae import DCAE
from sanakit.pocket.data.canvas import Placement
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.data.encoding import encode_images
from sanakit.pocket.data.samples import PocketSample, by_size, render
from sanakit.pocket.data.scenes import Scenes
from sanakit.train.feeds.images import IndexedImages
from sanakit.weights.fingerprint import weights_sha256
from sanakit.whole import written_whole

STARTED, SAMPLES, DONE = "started.json", "samples.jsonl", "pool.json"


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
    assert codec.encoder is not None
    made_of = {
        "samples": digest(samples),
        "data": pocket.fingerprint,
        "codec": weights_sha256(codec.encoder),
    }
    if not begin_pool(folder, made_of):
        _write(folder / SAMPLES, "".join(json.dumps(asdict(sample)) + "\n" for sample in samples))
        for size, indices in by_size(samples):
            file = _file(folder, size)
            if not file.exists():
                _encode(file, codec, _Rendered(samples, indices, pocket, scenes))
        end_pool(folder, made_of)
    return open_pool(folder)


def begin_pool(folder: Path, made_of: Mapping[str, object]) -> bool:
    """Begin a pool in a folder, or go on with it; return whether it is finished.

    made_of: samples, data, codec. Raises DataError for a folder with another pool in it.
    """
    started, done = folder / STARTED, folder / DONE
    for file in (started, done):
        if file.exists() and json.loads(file.read_text(encoding="utf-8")) != made_of:
            raise DataError(
                f"{folder} holds other samples, or another autoencoder's: choose another folder (--output), "
                "or delete it."
            )
    if done.exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    _write(started, json.dumps(made_of))
    return False


def end_pool(folder: Path, made_of: Mapping[str, object]) -> None:
    """Mark a pool as finished."""
    _write(folder / DONE, json.dumps(made_of))


def save_latents(file: Path, latents: Tensor) -> None:
    """Write a piece of a pool, float16."""
    with written_whole(file) as partial, partial.open("wb") as stream:
        np.save(stream, latents.cpu().numpy().astype(np.float16))


def digest(described: Sequence[object]) -> str:
    """Return one text for samples, in their order."""
    return hashlib.sha256("\n".join(map(str, described)).encode()).hexdigest()


def build_hints(
    folder: Path, pool: Pool, pocket: PocketImages, scenes: Scenes, codec: DCAE, kind: HintKind
) -> dict[tuple[int, int], np.ndarray]:
    """Encode the hints of a pool's samples beside it, or open them; as `Pool.latents`."""
    hints: dict[tuple[int, int], np.ndarray] = {}
    for size, indices in pool.indices.items():
        images = _Hints(pool.samples, indices, pocket, scenes, kind)
        digest = hashlib.sha256(images[0].tobytes()).hexdigest()[:12]
        file = folder / f"hints-{kind}-{digest}-{_file(folder, size).name}"
        if not file.exists():
            _encode(file, codec, images)
        hints[size] = np.load(file, mmap_mode="r")
    return hints


def open_pool(folder: Path) -> Pool:
    """Open a finished pool. Raises DataError where there is none."""
    if not (folder / DONE).exists():
        raise DataError(f"{folder} holds no finished pool of latents: build it first.")
    samples = []
    for line in (folder / SAMPLES).read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        fields |= {"placement": Placement(**fields["placement"]), "size": tuple(fields["size"])}
        samples.append(PocketSample(**fields))
    indices = dict(by_size(samples))
    return Pool(samples, {size: np.load(_file(folder, size), mmap_mode="r") for size in indices}, indices)


def _file(folder: Path, size: tuple[int, int]) -> Path:
    return folder / f"{size[0]}x{size[1]}.npy"


class _Rendered(Sequence[np.ndarray]):
    """Images of some samples, made when they are asked for."""

    def __init__(
        self, samples: Sequence[PocketSample], indices: Sequence[int], pocket: PocketImages, scenes: Scenes
    ) -> None:
        self._samples, self._indices, self._pocket, self._scenes = samples, indices, pocket, scenes

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return render(self._samples[self._indices[index]], self._pocket, self._scenes)


class _Hints(_Rendered):
    """Their hints of a kind."""

    def __init__(
        self,
        samples: Sequence[PocketSample],
        indices: Sequence[int],
        pocket: PocketImages,
        scenes: Scenes,
        kind: HintKind,
    ) -> None:
        super().__init__(samples, indices, pocket, scenes)
        self._kind: HintKind = kind

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return np.asarray(make_hint(Image.fromarray(super().__getitem__(index)), self._kind))


def _encode(file: Path, codec: DCAE, images: IndexedImages) -> None:
    save_latents(file, encode_images(codec, images))


def _write(file: Path, text: str) -> None:
    with written_whole(file) as partial:
        partial.write_text(text, encoding="utf-8")
