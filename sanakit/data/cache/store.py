"""Latents and text features stored in a folder, so that training need not encode images in every step.

The folder holds cache.json and the shards. cache.json is written first and names the source, the model and
the shards. A shard is a safetensors file of images of one bucket, written whole or not at all. So a run that
was killed continues with the shards that are missing. A shard's tensors:

    latents       n C h w  float16, times the autoencoder's scaling factor; 0 where an image is broken
    numbers       n        of the images in their source, by which captions are drawn
    sound         n        0 where an image turned out broken
    rows          bytes    JSON of each image: {"key": ..., "captions": [[text, score, source], ...]}, or
                           {"key": ..., "failed": reason};  row_ends: n + 1 offsets
    text          T E      bfloat16, features of all captions, unpadded; only where they were requested
    text_ends     K + 1    where each caption's features begin and end;  firsts: n, its first caption's number

Everything is mapped into memory, nothing is read before it is requested: a large cache opens at once.
Storage dtypes: float16 moves pocket's latents by 0.02 % of their spread, bfloat16 by 0.17 % (18 dB worse);
text features come out of Gemma 2 in bfloat16 anyway, and may be larger than float16 can hold.
Shapes: n images of a shard, C h w latents, T text tokens, E text width, K captions.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from sanakit.alone import alone_in
from sanakit.data.read.captions import Caption
from sanakit.dialect import USUAL, Dialect
from sanakit.errors import DataError, OutputError, WeightsError
from sanakit.weights.read.files import TensorFiles
from sanakit.whole import ABANDONED, sweep, written_whole

ABOUT = "cache.json"
FORMAT = 2  # raised when the meaning of a file changes
LATENTS, TEXT = torch.float16, torch.bfloat16  # how they are stored
AGAIN = "Run `sana data cache` with the same words again: it makes only what is missing."


@dataclass(frozen=True, kw_only=True, slots=True)
class Maker:
    """The model behind a cache's content; models that give the same content differ only in name.

    autoencoder, text_encoder: SHA-256 of the encoders' weights, None: no text.   scaling_factor: that latents
    were multiplied by.   instruction, max_tokens, dialect: of the text encoder, "", 0 and the usual one
    without text.   plan: that quantised it, else "".
    """

    model: str
    autoencoder: str
    scaling_factor: float
    text_encoder: str | None = None
    instruction: str = ""
    max_tokens: int = 0
    dialect: Dialect = USUAL
    plan: str = ""

    def difference(self, other: Maker) -> str | None:
        """Name the first thing in which another maker differs, and both values; None: it makes the same."""
        for name, what in _COMPARED.items():
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                return f"{what} ({_short(mine)} there, {_short(others)} here)"
        return None


_COMPARED = {
    "autoencoder": "the autoencoder's encoder",
    "scaling_factor": "the scaling factor of latents",
    "text_encoder": "the text encoder",
    "instruction": "the instruction before prompts",
    "max_tokens": "the most text tokens",
    "dialect": "the dialect that prompts are read in",
    "plan": "the plan of its quantisation",
}


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of the cache: which bucket its images belong to, and how many they are."""

    name: str
    bucket: int
    pictures: int


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """The content of cache.json.

    sizes: of the buckets, (height, width) in pixels.   latent_channels, compression: of the autoencoder.
    text_width: E, 0 without text.   source, captions: fingerprints of the images and of their captions.
    pictures: in the source; broken, left_out: those of them that are in no bucket, by name -> reason;
    ignored: other files.
    """

    maker: Maker
    resolution: int
    sizes: tuple[tuple[int, int], ...]
    latent_channels: int
    compression: int
    text_width: int
    source: str
    captions: str
    pictures: int
    broken: dict[str, str]
    left_out: dict[str, str]
    ignored: dict[str, str]
    shards: tuple[Shard, ...]

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Return the latents' C h w for an image of (height, width) in pixels."""
        return self.latent_channels, size[0] // self.compression, size[1] // self.compression


@dataclass(slots=True)
class CachedImage:
    """One image of a cache.

    number: in its source.   captions: all it has.   failed: why it has no latents; None: it is sound.
    latents: C h w, None for a broken one.   text: features of each caption, L E; of the empty caption where
    there is none; empty where the cache holds no text.
    """

    key: str
    number: int
    captions: tuple[Caption, ...] = ()
    failed: str | None = None
    latents: Tensor | None = None
    text: Sequence[Tensor] = field(default_factory=tuple)


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
    _check_same(folder, there, about)
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
        return CachedImage(key, number, captions, None, file.read("latents")[place], text)

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


def read_about(folder: Path) -> About:
    """Read cache.json. Raises DataError where it is missing, damaged or of another version."""
    path = folder / ABOUT
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format") != FORMAT:
            raise DataError(f"{path} was written by another version of this package: build the cache again.")
        content["maker"] = Maker(**content["maker"])
        content["sizes"] = tuple((int(height), int(width)) for height, width in content["sizes"])
        content["shards"] = tuple(Shard(**shard) for shard in content["shards"])
        return About(**content)
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not a cache: it has no {ABOUT}. Make one with `sana data cache`."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        sentence = f"{path} is damaged ({error}): delete the folder and build the cache again."
        raise DataError(sentence) from None


def _open_shard(folder: Path, shard: Shard) -> TensorFiles:
    path = folder / shard.name
    try:
        file = TensorFiles([path])
        images = file.infos["numbers"].shape[0]
    except (WeightsError, OSError, KeyError) as error:
        reason = str(error).removesuffix(" Download or export it again.")
        raise DataError(f"{path} is damaged: {reason} Delete it. {AGAIN}") from None
    if images != shard.pictures:
        raise DataError(f"{path} holds {images} images instead of {shard.pictures}: delete it. {AGAIN}")
    return file


def _check_same(folder: Path, there: About, here: About) -> None:
    if bool(there.text_width) != bool(here.text_width):
        what, instead = ("with", "give --text") if there.text_width else ("without", "leave --text out")
        raise DataError(f"{folder} is a cache {what} text features: {instead}, or choose another folder.")
    found = there.maker.difference(here.maker)
    if found:
        raise DataError(
            f"{folder} is a cache made with {there.maker.model}, and {here.maker.model} differs from it in "
            f"{found}: choose another folder."
        )
    if there.resolution != here.resolution:
        raise DataError(
            f"{folder} is a cache of {there.resolution} px, not of {here.resolution}: choose another folder."
        )
    if there.source == here.source and there.captions != here.captions:
        raise DataError(
            f"{folder} is a cache of these images with other captions or scores, which changed since: choose "
            "another folder, or delete this one to make it again."
        )
    for entry in fields(About):
        same = getattr(there, entry.name) == getattr(here, entry.name)
        if entry.name not in ("maker", "shards", "ignored") and not same:
            raise DataError(
                f"{folder} is a cache of other images, or of these images before a change ({entry.name} "
                "differs): choose another folder, or delete this one."
            )


def _ends(lengths: Iterable[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int64)


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 12 else f"{text[:12]}..."


def _write(path: Path, content: bytes) -> None:
    try:
        with written_whole(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): make room, or name a folder that you may "
            "write to. Finished shards are kept; the same command goes on with the others."
        ) from None
