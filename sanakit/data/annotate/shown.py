"""The images that captioners and scorers see of a sample: itself, or some frames of a clip.

Frames are spread evenly: of n frames each is the middle of an nth of the clip, so a single one is its middle.
A captioner sees them in a grid, row by row in their order, each scaled so that the whole is within
LONGEST_SIDE. A scorer sees them one by one, each scaled to within FRAME_SIDE.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from PIL import Image

from sanakit.clips.formats.animation import is_animated
from sanakit.clips.formats.container import VIDEO, format_of
from sanakit.data.annotate.captioner import LONGEST_SIDE
from sanakit.data.medium import CLIPS
from sanakit.data.read.decode import decode, image_size
from sanakit.data.read.source import clip_defect
from sanakit.errors import DataError, SettingsError

if TYPE_CHECKING:
    from sanakit.data.read.source import Source

FRAME_SIDE = 640  # pixels: 360 rows of 16:9, more than the 336 that CLIPs see


def read_sample(
    source: Source, index: int, frames: int = 1, *, apart: bool = False
) -> list[Image.Image] | str:
    """Return what is shown of a sample, RGB, or why it cannot be read.

    frames: of a clip, at least 1; a shorter clip shows each of its frames once. apart: an image for each of
    them, else one of all. Raises MissingExtraError for videos without PyAV.
    """
    try:
        if source.medium is not CLIPS:
            return [_image(source.read(index))]
        return _frames(source, index, frames) if apart else [_grid(source, index, frames)]
    except SettingsError as error:  # of a clip
        return clip_defect(error, source.key(index))
    except (DataError, OSError) as error:
        return str(error)


def spread(count: int, wanted: int) -> list[int]:
    """Return the numbers of the frames that are shown of a clip.

    >>> spread(9, 1), spread(16, 4), spread(2, 4)
    ([4], [2, 6, 10, 14], [0, 1])
    """
    return sorted({(2 * part + 1) * count // (2 * wanted) for part in range(wanted)})


def _image(content: bytes) -> Image.Image:
    """Return an image upright, on white, scaled down to LONGEST_SIDE.

    Raises DataError, also for an animation, and SettingsError for a damaged one.
    """
    file = io.BytesIO(content)
    kind = format_of(file)
    if kind is not None and kind not in VIDEO and is_animated(file, kind, "the file"):
        raise DataError("is an animation, not an image: --frames takes clips")
    height, width = image_size(file)
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    pixels = decode(content, max(1, round(height * scale)), max(1, round(width * scale)))
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _frames(source: Source, index: int, frames: int) -> list[Image.Image]:
    """Return frames of a clip, one by one. Raises OSError, SettingsError."""
    with source.clip(index) as clip:
        width, height = clip.facts.width, clip.facts.height
        scale = min(1.0, FRAME_SIDE / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        numbers = spread(clip.facts.frames, frames)
        shown = (Image.fromarray(clip.read(start=number, count=1).frames[0]) for number in numbers)
        return [frame.resize(size, Image.Resampling.LANCZOS) for frame in shown]


def _grid(source: Source, index: int, frames: int) -> Image.Image:
    """Return frames of a clip in a grid. Raises OSError, SettingsError."""
    with source.clip(index) as clip:
        numbers = spread(clip.facts.frames, frames)
        columns = math.ceil(math.sqrt(len(numbers)))
        rows = math.ceil(len(numbers) / columns)
        width, height = clip.facts.width, clip.facts.height
        scale = min(1.0, LONGEST_SIDE / max(width * columns, height * rows))
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        grid = Image.new("RGB", (width * columns, height * rows), "white")
        for place, number in enumerate(numbers):
            frame = Image.fromarray(clip.read(start=number, count=1).frames[0])
            row, column = divmod(place, columns)
            grid.paste(
                frame.resize((width, height), Image.Resampling.LANCZOS), (column * width, row * height)
            )
    return grid
