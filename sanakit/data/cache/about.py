"""The content of a cache's cache.json: which samples, in which sizes, made by which encoders.

A cache is continued, and trained on, only where all of that is the same: its content is never mixed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path

from sanakit.dialect import USUAL, Dialect
from sanakit.errors import DataError

ABOUT = "cache.json"
FORMAT = 2  # raised when the meaning of a file changes
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
class CachedClips:
    """How a cache's clips were sampled: each from its beginning.

    rate: frames a second, a fraction as text.   lengths: frames.   repeat: whether short ones are shown
    again.   per_latent: frames that share each latent but the first.
    """

    rate: str
    lengths: tuple[int, ...]
    repeat: bool
    per_latent: int

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(Fraction(self.rate))

    def __str__(self) -> str:
        repeated = ", short ones repeated" if self.repeat else ""
        return f"{', '.join(map(str, self.lengths))} frames at {self.rate} a second{repeated}"


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """The content of cache.json.

    sizes: of the buckets, (height, width) in pixels; of clips (frames, height, width).   latent_channels,
    compression: of the autoencoder.
    text_width: E, 0 without text.   source, captions: fingerprints of the images and of their captions.
    pictures: in the source; broken, left_out: those of them that are in no bucket, by name -> reason;
    ignored: other files.   notes: what is lost of those in buckets.   clips: how they were sampled; None: the
    cache is of images.   cameras: whether each clip has its camera path.
    """

    maker: Maker
    resolution: int
    sizes: tuple[tuple[int, ...], ...]
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
    notes: dict[str, str] = field(default_factory=dict)
    clips: CachedClips | None = None
    cameras: bool = False

    @property
    def samples(self) -> str:
        """Return what the cache is of, in sentences."""
        return "images" if self.clips is None else "clips"

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Return the latents' C h w for an image of (height, width) in pixels; of a clip, C t h w."""
        time = () if self.clips is None else (1 + (size[0] - 1) // self.clips.per_latent,)
        return self.latent_channels, *time, *(side // self.compression for side in size[-2:])


def read_about(folder: Path) -> About:
    """Read cache.json. Raises DataError where it is missing, damaged or of another version."""
    path = folder / ABOUT
    try:
        content = json.loads(path.read_bytes())
        if content.pop("format") != FORMAT:
            raise DataError(f"{path} was written by another version of this package: build the cache again.")
        content["maker"] = Maker(**content["maker"])
        content["sizes"] = tuple(tuple(map(int, size)) for size in content["sizes"])
        if content.get("clips"):
            clips = content["clips"]
            content["clips"] = CachedClips(**{**clips, "lengths": tuple(clips["lengths"])})
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


def check_same(folder: Path, there: About, here: About) -> None:
    """Raise DataError, which names both, where a cache's folder is of something else than `here`."""
    if bool(there.text_width) != bool(here.text_width):
        what, instead = ("with", "give --text") if there.text_width else ("without", "leave --text out")
        raise DataError(f"{folder} is a cache {what} text features: {instead}, or choose another folder.")
    found = there.maker.difference(here.maker)
    if found:
        raise DataError(
            f"{folder} is a cache made with {there.maker.model}, and {here.maker.model} differs from it in "
            f"{found}: choose another folder."
        )
    if there.samples != here.samples:
        raise DataError(
            f"{folder} is a cache of {there.samples}, not of {here.samples}: choose another folder."
        )
    if there.clips != here.clips:
        raise DataError(
            f"{folder} is a cache of clips of {there.clips}, not of {here.clips}: choose another folder."
        )
    if there.resolution != here.resolution:
        raise DataError(
            f"{folder} is a cache of {there.resolution} px, not of {here.resolution}: choose another folder."
        )
    if there.source == here.source and there.captions != here.captions:
        raise DataError(
            f"{folder} is a cache of these {there.samples} with other captions or scores, which changed "
            "since: choose another folder, or delete this one to make it again."
        )
    for entry in fields(About):
        same = getattr(there, entry.name) == getattr(here, entry.name)
        if entry.name not in ("maker", "shards", "ignored", "notes") and not same:
            raise DataError(
                f"{folder} is a cache of other {there.samples}, or of these before a change ({entry.name} "
                "differs): choose another folder, or delete this one."
            )


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 12 else f"{text[:12]}..."
