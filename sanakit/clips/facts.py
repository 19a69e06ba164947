"""Facts of a clip, known before its frames are decoded, and limits on what is read."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from sanakit.clips.settings import ClipSettings
from sanakit.errors import SettingsError, SizeError

MAX_PIXELS = 2**25  # of a frame: 33 million, as much as 8K has
MAX_FRAMES = 2**20  # of a file: nine hours at 30 frames a second
MAX_SECONDS = 12 * 3600
MAX_BYTES = 2**32  # of decoded frames held at once: 4 GB


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipFacts:
    """A clip's file: its format, size, frames and settings.

    path: as given. format: "MP4", "MOV", "WebM", "Matroska", "WebP", "GIF", "APNG" or "frame folder".
    codec: as FFmpeg calls it, such as "h264". width, height: pixels of the upright frames.
    frames: those that are shown. rate: frames a second, the mean if it is not constant.
    notes: sentences on what reading leaves out.
    """

    path: str
    format: str
    codec: str
    width: int
    height: int
    frames: int
    rate: Fraction
    constant_rate: bool
    seconds: Fraction
    settings: ClipSettings
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_pixels(self.path, self.width, self.height)
        if self.frames < 1:
            raise SettingsError(f"{self.path} holds no frame that is shown.")
        check_frames(self.path, self.frames)
        if self.seconds > MAX_SECONDS:
            raise SettingsError(
                f"{self.path} lasts {float(self.seconds):,.0f} seconds, more than the limit of "
                f"{MAX_SECONDS:,}: cut it into parts."
            )


def check_pixels(path: str, width: int, height: int) -> None:
    """Raise SizeError for frames of more than MAX_PIXELS, or of none."""
    if not 1 <= width * height <= MAX_PIXELS:
        raise SizeError(
            f"{path} has frames of {width}x{height} px; from 1 to {MAX_PIXELS // 10**6} million pixels are "
            "read: scale it down."
        )


def check_frames(path: str, frames: int) -> None:
    """Raise SettingsError for more than MAX_FRAMES."""
    if frames > MAX_FRAMES:
        raise SettingsError(f"{path} has more than {MAX_FRAMES:,} frames: cut it into parts.")


def damaged(path: str, why: str) -> SettingsError:
    """Return the error for a file that does not hold what its format demands."""
    return SettingsError(f"{path} is damaged or cut off ({why}): use an intact file.")
