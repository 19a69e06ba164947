"""Numbers with their nouns, in sentences for people."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number and what is counted. many: for any other number than 1; "": `one` with an s.

    >>> counted(1, "frame"), counted(2, "frame is", "frames are"), counted(1234, "clip")
    ('1 frame', '2 frames are', '1,234 clips')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
