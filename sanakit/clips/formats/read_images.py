"""Read animated WebP, GIF and PNG by Pillow: frames as they are shown, on white where transparent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO

import numpy as np
from PIL import Image

from sanakit.clips.counts import rate_of
from sanakit.clips.facts import ClipFacts, damaged
from sanakit.clips.formats.animation import read_animation
from sanakit.clips.formats.container import not_a_clip
from sanakit.clips.settings import settings_from
from sanakit.errors import SettingsError
from sanakit.images.opening import flatten
from sanakit.wording import counted

_CODECS = {"WebP": "webp", "GIF": "gif", "PNG": "apng"}


class ImageFrames:
    """The frames of an animated image. facts, ticks, end, base: as for `open_clip`'s other readers.

    A frame may depend on all before it: a window is decoded from the beginning of the file.
    Raises SettingsError for a still WebP or PNG, and for damage; SizeError.
    """

    def __init__(self, file: BinaryIO, file_format: str, path: str) -> None:
        animation = read_animation(file, file_format, path)
        if animation is None:
            raise SettingsError(f"{path} is a still image, not a clip: open it as an image.")
        self.file, self.path, self.animation = file, path, animation
        self.base = animation.base
        times = [round(time / self.base) for time in accumulate(animation.durations, initial=0)]
        self.ticks, self.end = times[:-1], times[-1]
        settings, stored = settings_from(animation.comment)
        rate, constant = rate_of(self.ticks, self.end, self.base, () if stored is None else (stored,))
        notes = ()
        if animation.slowed:
            words = "frame states 10 ms or less; it lasts", "frames state 10 ms or less; they last"
            notes = (f"{counted(animation.slowed, *words)} 100 ms, as in browsers.",)
        self.facts = ClipFacts(
            path=path,
            format="APNG" if file_format == "PNG" else file_format,
            codec=_CODECS[file_format],
            width=animation.width,
            height=animation.height,
            frames=len(self.ticks),
            rate=rate,
            constant_rate=constant,
            seconds=len(self.ticks) / rate if constant else self.end * self.base,
            settings=settings,
            notes=notes,
        )
        self.pillow_format = file_format.upper()

    def decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the frames of these ascending numbers: H W 3, uint8."""
        skipped = int(self.animation.hidden_first)
        self.file.seek(0)
        try:
            with Image.open(self.file, formats=[self.pillow_format]) as image:
                for number in numbers:
                    image.seek(number + skipped)
                    image.load()
                    flat = flatten(image)
                    if flat.size != (self.facts.width, self.facts.height):
                        raise damaged(self.path, f"frame {number} has another size")
                    yield np.asarray(flat)
        except (SettingsError, MemoryError, GeneratorExit):
            raise
        except Exception as error:  # Pillow's decoders raise anything of a damaged file
            raise damaged(self.path, str(error)) from None

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def open_images(file: BinaryIO, file_format: str | None, path: str) -> ImageFrames:
    """Return the reader of a "WebP", "GIF" or "PNG" file. Raises SettingsError for any other."""
    if file_format not in _CODECS:
        raise not_a_clip(path)
    return ImageFrames(file, file_format, path)
