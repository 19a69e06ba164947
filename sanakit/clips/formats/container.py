"""Which format a clip's file has, by its content, and whether it is as long as it states.

FFmpeg and Pillow read what they find of a file that was cut off; the formats say how long it should be.
Sources: ISO/IEC 14496-12 (boxes), RFC 8794 (EBML).
"""

from __future__ import annotations

import os
from typing import BinaryIO

from sanakit.clips.facts import damaged
from sanakit.errors import SettingsError

VIDEO = {"MP4": "mov", "MOV": "mov", "WebM": "matroska", "Matroska": "matroska"}  # -> FFmpeg's reader
READ = "MP4, MOV, WebM, Matroska, animated WebP, GIF, APNG or a folder of frames"
SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".webp", ".gif", ".apng")  # usual ones of these files
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # that a MOV or MP4 file begins with
_EBML, _SEGMENT, _DOCTYPE = b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x42\x82"


def format_of(file: BinaryIO) -> str | None:
    """Return the format of a file that may be a clip, or None. "WebP" and "PNG" may hold one image only."""
    head = _at(file, 0, 64)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith(_EBML):
        return "WebM" if b"webm" in head[head.find(_DOCTYPE) :][:12] else "Matroska"
    if head[4:8] in _BOXES:
        return "MP4" if head[4:8] == b"ftyp" and head[8:12] != b"qt  " else "MOV"
    return None


def check_whole(file: BinaryIO, file_format: str, path: str) -> None:
    """Raise SettingsError for a video file that is shorter than its parts say. file_format: one of VIDEO."""
    if VIDEO[file_format] == "mov":
        _check_boxes(file, path)
    else:
        _check_segment(file, path)
    file.seek(0)


def not_a_clip(path: str) -> SettingsError:
    """Return the error for a file of another kind."""
    return SettingsError(f"{path} is not a clip that can be read: use {READ}.")


def _check_boxes(file: BinaryIO, path: str) -> None:
    length, start, kinds = _length(file), 0, set()
    while start < length:
        head = _at(file, start, 16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        elif size == 0:  # to the end of the file
            size = length - start
        if size < 8 or start + size > length:
            raise damaged(path, "a part reaches beyond the end of the file")
        kinds.add(kind)
        start += size
    if b"moov" not in kinds:
        raise damaged(path, "its index is missing")
    if b"mdat" not in kinds:
        raise damaged(path, "its frames are missing")


def _check_segment(file: BinaryIO, path: str) -> None:
    header, begin = _element(file, 4)
    start = begin + (header or 0)
    if header is None or _at(file, start, 4) != _SEGMENT:
        raise damaged(path, "its header is broken")
    size, begin = _element(file, start + 4)
    if begin == start + 4:
        raise damaged(path, "its header is cut off")
    if size is not None and begin + size > _length(file):
        raise damaged(path, "its frames reach beyond the end of the file")


def _element(file: BinaryIO, start: int) -> tuple[int | None, int]:
    """Return the size of an EBML element and where its content begins.

    The size is None if it is unknown. Where it is cut off, the content begins at once.
    """
    head = _at(file, start, 8)
    width = 9 - head[0].bit_length() if head else 9
    if width > 8 or len(head) < width:
        return None, start
    size = int.from_bytes(head[:width], "big") & ((1 << 7 * width) - 1)
    return (None if size == (1 << 7 * width) - 1 else size), start + width


def _at(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _length(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)
