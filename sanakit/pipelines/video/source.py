"""Images and clips to start from, brought to the size that is drawn.

Frames are scaled until they cover that size, and cut from their middle.
Shapes: T frames, H W pixels.
"""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.clips.counts import frames_for
from sanakit.clips.formats.folder import is_frame_folder
from sanakit.clips.reading import open_clip
from sanakit.errors import SettingsError
from sanakit.images.image import to_tensor
from sanakit.images.opening import flatten
from sanakit.models.video.frame_rule import FrameRule
from sanakit.pipelines.control import SAME_SHAPE
from sanakit.wording import counted


def conditioning_frame(image: Image.Image, size: tuple[int, int], notes: list[str]) -> Tensor:
    """Return an image as the first frame of a clip, 1 3 1 H W in [-1, 1].

    image: of any size and mode, turned as its EXIF data say, laid on white where it is transparent. size:
    height and width in pixels. notes: takes a sentence if the image is cut.
    """
    return _fitted([flatten(image)], size, "The image", notes)


def source_frames(clip: VideoClip, frames: int, size: tuple[int, int], notes: list[str]) -> Tensor:
    """Return the first frames of a clip, 1 3 T H W in [-1, 1]; all else as for `conditioning_frame`."""
    return _fitted([Image.fromarray(frame) for frame in clip.frames[:frames]], size, "The clip", notes)


def frames_of(clip: VideoClip, frames: int | None, usual: int, rule: FrameRule, notes: list[str]) -> int:
    """Return how many frames of a clip are redrawn.

    frames: that were asked for; None: all that fit the rule, up to the `usual` number. notes: takes a
    sentence if frames at its end are left out. Raises SettingsError for more than the clip has.
    """
    there = len(clip.frames)
    if frames is None:
        frames = rule.frames(1 + (min(there, usual) - 1) // rule.per_latent)
    elif frames > there:
        raise SettingsError(
            f"The clip has {counted(there, 'frame')}, not {frames}: ask for fewer, or give a longer clip."
        )
    if frames < there:
        notes.append(f"The first {frames} of the clip's {there} frames are redrawn, the others left out.")
    return frames


def read_source(
    path: str | os.PathLike[str],
    rule: FrameRule,
    *,
    usual: int,
    frames: int | None = None,
    seconds: float | str | Fraction | None = None,
    rate: int | float | str | Fraction | None = None,
) -> VideoClip:
    """Read as much of a clip as is to be redrawn; its notes tell what is left out.

    usual: frames to read at most if neither frames nor seconds say it. rate: frames a second to take; None:
    every frame, as stored; of a folder without clip.json it is the folder's own. Raises as `open_clip` does.
    """
    plain = os.path.isdir(path) and not is_frame_folder(path)
    if plain and rate is None:
        raise SettingsError(f"{path} does not say its frames a second: give the rate (--fps).")
    with open_clip(path, folder_rate=rate if plain else None) as file:
        there, own = file.count(rate), file.facts.rate.limit_denominator(1001) if rate is None else rate
        most = usual if frames is None else max(1, frames)
        if seconds is not None:
            most, _ = frames_for(seconds, own, rule.per_latent)
        clip = file.read(count=min(there, most), rate=rate)
    if there <= most:
        return clip
    told = f"Of {path}, the first {most} of {there} frames are read."
    return replace(clip, notes=(*clip.notes, told))


def _fitted(frames: list[Image.Image], size: tuple[int, int], what: str, notes: list[str]) -> Tensor:
    height, width = size
    came = frames[0].size
    if abs(came[0] * height / (came[1] * width) - 1) > SAME_SHAPE:
        notes.append(f"{what} of {came[0]}x{came[1]} px is cut to the shape of {width}x{height} px.")
    fitted = [ImageOps.fit(frame, (width, height), Image.Resampling.LANCZOS) for frame in frames]
    return to_tensor(np.stack([np.array(frame) for frame in fitted])).transpose(0, 1)[None]
