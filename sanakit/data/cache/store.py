"""Latents and text features stored in a folder, so that training need not encode images in every step.

The folder holds cache.json and the shards. cache.json is written first and names the source, the model and
the shards. A shard is a safetensors file of images of one bucket, written whole or not at all. So a run that
was killed continues with the shards that are missing. A shard's tensors:

    latents       n C h w  float16, times the autoencoder's scaling factor; 0 where an image is broken; of
                           clips n C t h w, normalised per channel
    numbers       n        of the images in their source, by which captions are drawn
    sound         n        0 where an image turned out broken
    rows          bytes    JSON of each image: {"key": ..., "captions": [[text, score, source], ...]}, or
                           {"key": ..., "failed": reason};  row_ends: n + 1 offsets
    cameras       n F 20   float32, of clips along camera paths: see `batches/camera_paths.py`
    text          T E      bfloat16, features of all captions, unpadded; only where they were requested
    text_ends     K + 1    where each caption's features begin and end;  firsts: n, its first caption's number

Everything is mapped into memory, nothing is read before it is requested: a large cache opens at once.
Storage dtypes: float16 moves pocket's latents by 0.02 % of their spread, bfloat16 by 0.17 % (18 dB worse);
text features come out of Gemma 2 in bfloat16 anyway, and may be larger than float16 can hold.
Shapes: n images or clips of a shard, C h w latents, t of them along time, T text tokens, E text width, K
captions.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from sanakit.alone import alone_in
from sanakit.data.cache.about import ABOUT, AGAIN, FORMAT, About, Maker, Shard, check_same, read_about
from sanakit.data.read.captions import Caption
from sanakit.errors import DataError, OutputError, WeightsError
from sanakit.models.world.camera import CAMERA_NUMBERS
from sanakit.weights.read.files import TensorFiles
from sanakit.whole import ABANDONED, sweep, written_whole
from sanakit.wording import counted

LATENTS, TEXT = torch.float16, torch.bfloat16  # how they are stored


@dataclass(slots=True)
class CachedImage:
    """One image of a cache.

    number: in its source.   captions: all it has.   failed: why it has no latents; None: it is sound.
    latents: C h w, of a clip C t h w; None for a broken one.   text: features of each caption, L E; of the
    empty caption where there is none; empty where the cache holds no text.   cameras: of a clip along a
    camera path, F 20.
    """

    key: str
    number: int
    captions: tuple[Caption, ...] = ()
    failed: str | None = None
    latents: Tensor | None = None
    text: Sequence[Tensor] = field(default_factory=tuple)
    cameras: Tensor | None = None


def is_cache(place: str | os.PathLike[str]) -> bool:
    """Return whether a folder is a cache, finished or not, rather than a folder of images."""
    try:
        return (Path(place).expanduser() / ABOUT).is_file()
    except OSError:
        return False


def begun(folder: Path, about: About) -> About:
    """Return the content of cache.json if this cache was already started, else its future content.

    Raises DataError, which names both, where the cache there is of other images, another model or setting.
    """
    if not is_cache(folder):
        return about
    there = read_about(folder)
    check_same(folder, there, about)
    return there


@contextmanager
def held_cache(folder: Path, about: About) -> Iterator[None]:
    """Hold a cache's folder for this process alone, with its cache.json, which is made if need be.

    Raises OutputError where it cannot be written or is held; DataError as `begun` does."""
    with alone_in(folder) as locked:
        sweep(folder, older=0 if locked else ABANDONED)
        begun(folder, about)
        if not is_cache(folder):
            _write(folder / ABOUT, json.dumps({"format": FORMAT, **asdict(about)}, indent=1).encode() + b"\n")
        yield


def write_shard(folder: Path, shard: Shard, about: About, images: Sequence[CachedImage]) -> None:
    """Write a shard's images, whole or not at all. Raises OutputError where that is not possible."""
    latents = torch.zeros((len(images), *about.latent_shape(about.sizes[shard.bucket])), dtype=LATENTS)
    rows: list[bytes] = []
    for place, image in enumerate(images):
        row: dict[str, Any] = {"key": image.key}
        if image.latents is None:
            row["failed"] = image.failed
        else:
            latents[place] = image.latents
            row["captions"] = [[c.text, c.score, c.source] for c in image.captions]
        rows.append(json.dumps(row).encode())
    tensors = {
        "latents": latents,
        "numbers": torch.tensor([image.number for image in images]),
        "sound": torch.tensor([image.latents is not None for image in images], dtype=torch.uint8),
        "rows": torch.from_numpy(np.frombuffer(b"".join(rows), dtype=np.uint8).copy()),
        "row_ends": _ends(map(len, rows)),
    }
    if about.cameras:
        cameras = torch.zeros(
            (len(images), about.sizes[shard.bucket][0], CAMERA_NUMBERS), dtype=torch.float32
        )
        for place, image in enumerate(images):
            if image.cameras is not None:
                cameras[place] = image.cameras
        tensors["cameras"] = cameras
    if about.text_width:
        text = [features for image in images for features in image.text]
        none = torch.empty((0, about.text_width), dtype=TEXT)
        tensors["text"] = torch.cat([none, *(features.to("cpu", TEXT) for features in text)])
        tensors["text_ends"] = _ends(map(len, text))
        tensors["firsts"] = _ends(len(image.text) for image in images)[:-1].clone()
    _write(folder / shard.name, save(tensors))


def has_shard(folder: Path, shard: Shard) -> bool:
    """Return whether a shard exists and is intact."""
    try:
        return (folder / shard.name).exists() and len(_open_shard(folder, shard).infos) > 0
    except DataError:
        return False


class Cache:
    """A finished cache with random access; images are numbered from 0, shard by shard.

    Raises DataError where the folder is none, is not finished, or a shard is damaged, which is named.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.about = read_about(self.folder)
        shards = self.about.shards
        missing = [shard.name for shard in shards if not (self.folder / shard.name).exists()]
        if missing:
            raise DataError(
                f"The cache {self.folder} is not finished: {len(missing)} of its {len(shards)} shards are "
                f"missing, the first is {missing[0]}. {AGAIN}"
            )
        self._files = [_open_shard(self.folder, shard) for shard in shards]
        self._starts = [0, *accumulate(shard.pictures for shard in shards)]

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def members(self) -> tuple[np.ndarray, ...]:
        """Return for each bucket the numbers of its images in the cache, in the source's order."""
        filled: list[list[np.ndarray]] = [[] for _ in self.about.sizes]
        for start, shard in zip(self._starts[:-1], self.about.shards, strict=True):
            filled[shard.bucket].append(np.arange(start, start + shard.pictures))
        return tuple(np.concatenate(spans) for spans in filled)

    @cached_property
    def failed(self) -> dict[str, str]:
        """Images found to be broken while encoding, by name -> reason."""
        broken: dict[str, str] = {}
        for start, file in zip(self._starts[:-1], self._files, strict=True):
            for place in torch.nonzero(file.read("sound") == 0).flatten().tolist():
                image = self[start + place]
                broken[image.key] = image.failed or ""
        return broken

    def __getitem__(self, index: int) -> CachedImage:
        """Return an image; its tensors are backed by the file. Raises DataError for a damaged row."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        which = bisect_right(self._starts, index) - 1
        file, place = self._files[which], index - self._starts[which]
        start, end = file.read("row_ends")[place : place + 2].tolist()
        try:
            row = json.loads(file.read("rows")[start:end].numpy().tobytes())
            captions = tuple(Caption(*caption) for caption in row.get("captions", ()))
            key, failed = row["key"], row.get("failed")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{file.paths[0]} is damaged in the row of its image {place} ({error}): delete it. {AGAIN}"
            ) from None
        number = int(file.read("numbers")[place])
        if failed is not None:
            return CachedImage(key, number, failed=failed)
        text = list(self._text(file, place, max(1, len(captions)))) if self.about.text_width else []
        cameras = file.read("cameras")[place] if self.about.cameras else None
        return CachedImage(key, number, captions, None, file.read("latents")[place], text, cameras)

    def fingerprint(self) -> str:
        """Return the fingerprint of the images that the cache was made of."""
        return self.about.source

    def captions_fingerprint(self) -> str:
        """Return the fingerprint of the captions that these images had then."""
        return self.about.captions

    def key(self, index: int) -> str:
        """Name an image, as its source does."""
        return self[index].key

    def captions(self, index: int) -> tuple[Caption, ...]:
        """Return an image's captions, () where it has none or is broken."""
        return self[index].captions

    def check(self, maker: Maker, resolution: int | None = None) -> None:
        """Raise DataError, which names both, where a model or resolution would not give this cache's content.

        maker: as `cache_build.maker_of` gives it for the model that is to be trained; without a text encoder,
        the cache's text is not compared.   resolution: in pixels, of the training; None: any.
        """
        mine = self.about.maker
        # features that nobody is going to use need not fit
        pixels = {"autoencoder": mine.autoencoder, "scaling_factor": mine.scaling_factor}
        pixels_only = Maker(model=mine.model, **pixels)
        found = (mine if maker.text_encoder else pixels_only).difference(maker)
        if found:
            raise DataError(
                f"The cache {self.folder} was made with {mine.model}, and {maker.model} differs from it in "
                f"{found}. Train {mine.model}, or make a cache for {maker.model} in another folder."
            )
        if resolution is not None and resolution != self.about.resolution:
            raise DataError(
                f"The cache {self.folder} has {self.about.resolution} px, the training {resolution} px: "
                "train at that, or make a cache for this resolution in another folder."
            )

    def _text(self, file: TensorFiles, place: int, count: int) -> Iterator[Tensor]:
        first = int(file.read("firsts")[place])
        ends = file.read("text_ends")[first : first + count + 1].tolist()
        text = file.read("text")
        yield from (text[start:end] for start, end in pairwise(ends))


def _open_shard(folder: Path, shard: Shard) -> TensorFiles:
    path = folder / shard.name
    try:
        file = TensorFiles([path])
        images = file.infos["numbers"].shape[0]
    except (WeightsError, OSError, KeyError) as error:
        reason = str(error).removesuffix(" Download or export it again.")
        raise DataError(f"{path} is damaged: {reason} Delete it. {AGAIN}") from None
    if images != shard.pictures:
        raise DataError(
            f"{path} holds {counted(images, 'image')} instead of {shard.pictures}: delete it. {AGAIN}"
        )
    return file


def _ends(lengths: Iterable[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int64)


def _write(path: Path, content: bytes) -> None:
    try:
        with written_whole(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): make room, or name a folder that you may "
            "write to. Finished shards are kept; the same command goes on with the others."
        ) from None
