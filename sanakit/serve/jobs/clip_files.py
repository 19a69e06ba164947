"""The file of a clip that a job makes: MP4 where PyAV is installed, else animated WebP.

Which one it is, is decided when a job is accepted, so that a job that is drawn again has the same file.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from sanakit.clips.clip import VideoClip
from sanakit.clips.formats.pyav import load_av
from sanakit.clips.writing import check_writable
from sanakit.errors import MissingExtraError

MEDIA_TYPES = {"mp4": "video/mp4", "webp": "image/webp"}  # format, which is the suffix -> Content-Type


def usual_format() -> str:
    """Return the format that clips are written in here: mp4, or webp without PyAV."""
    try:
        load_av()
    except MissingExtraError:
        return "webp"
    return "mp4"


def check_format(
    format: str, *, width: int, height: int, rate: Fraction, settings: Mapping[str, str | int | float]
) -> None:
    """Raise SettingsError or SizeError for a clip that a format cannot hold, before it is drawn."""
    place = Path(gettempdir()) / f"clip.{format}"
    check_writable(place, width=width, height=height, rate=rate, settings=settings)


def clip_file(clip: VideoClip, format: str) -> tuple[bytes, list[str]]:
    """Return a clip as a file, with its settings; and notes on what the format cannot hold exactly.

    Raises OutputError for a full disk, MissingExtraError for MP4 without PyAV.
    """
    with TemporaryDirectory(prefix="sana-clip-") as folder:
        path, notes = clip.save(Path(folder) / f"clip.{format}")
        return path.read_bytes(), list(notes)
