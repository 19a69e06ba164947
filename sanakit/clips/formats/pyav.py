"""PyAV, which brings FFmpeg: the extra `video`."""

from __future__ import annotations

from types import ModuleType

from sanakit.errors import MissingExtraError

WITHOUT = "Without it .webp, .gif and folders of frames work."


def load_av() -> ModuleType:
    """Return the package `av`. Raises MissingExtraError, which says which formats work without it."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "video", WITHOUT) from None
    return av
