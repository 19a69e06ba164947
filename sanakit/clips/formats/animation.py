"""The structure of animated WebP, GIF and PNG files: every frame's duration, found without decoding.

Pillow decodes the pixels; it states neither exact durations nor whether frames at the end are missing.
Sources: the WebP container specification, the GIF89a specification, PNG third edition (acTL, fcTL).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from sanakit.clips.facts import check_frames, damaged

AT_ONCE = Fraction(1, 100)  # seconds: frames no longer than this are shown for USUAL, as browsers do
USUAL = Fraction(1, 10)
_EXIF = b"Exif\0\0"  # before Exif data in JPEG files; those of WebP begin after it
_COMMENT = b"ASCII\0\0\0"  # what an Exif comment begins with that is ASCII
_LONGEST = 2**20  # bytes of a comment that is read


@dataclass(frozen=True, kw_only=True, slots=True)
class Animation:
    """A file of frames that Pillow decodes.

    durations: of each frame, in seconds. comment: where settings are kept. hidden_first: the file's first
    image is shown only where animations are not, and is not counted. slowed: frames without a duration.
    """

    width: int
    height: int
    durations: list[Fraction]
    comment: str
    base: Fraction  # seconds a tick
    hidden_first: bool = False
    slowed: int = 0


def read_animation(file: BinaryIO, file_format: str, path: str) -> Animation | None:
    """Return the structure of a "WebP", "GIF" or "PNG" file; None for a WebP or PNG that is a still image.

    Raises SettingsError for a file that is damaged or cut off.
    """
    file.seek(0)
    try:
        return {"WebP": _webp, "GIF": _gif, "PNG": _png}[file_format](file, path)
    except EOFError:
        raise damaged(path, "it ends too early") from None
    finally:
        file.seek(0)


def is_animated(file: BinaryIO, file_format: str, path: str) -> bool:
    """Return whether a "WebP", "GIF" or "PNG" file is an animation. Raises as `read_animation` does."""
    return read_animation(file, file_format, path) is not None


def gif_blocks(file: BinaryIO) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (kind, header, data) of a GIF's blocks after its screen.

    An extension's kind is its label, its data are what its sub-blocks hold. An image's kind is 0x2C, its
    header the descriptor with its palette, its data the sub-blocks as they are stored.
    Raises EOFError where the file ends early.
    """
    while (mark := _exactly(file, 1)) != b"\x3b":
        if mark == b"\x21":
            label = _exactly(file, 1)[0]
            yield label, b"", b"".join(_sub_blocks(file))
        elif mark == b"\x2c":
            header = _exactly(file, 9)
            if header[8] & 0x80:
                header += _exactly(file, 3 << (header[8] & 7) + 1)
            code = _exactly(file, 1)
            blocks = b"".join(bytes([len(block)]) + block for block in _sub_blocks(file))
            yield 0x2C, header, code + blocks + b"\0"
        else:
            raise EOFError


def skip_gif_screen(file: BinaryIO) -> tuple[int, int, bytes]:
    """Read a GIF's beginning: return width, height and the global palette, which may be empty."""
    screen = _exactly(file, 13)
    palette = _exactly(file, 3 << (screen[10] & 7) + 1) if screen[10] & 0x80 else b""
    return int.from_bytes(screen[6:8], "little"), int.from_bytes(screen[8:10], "little"), palette


def chunks(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, position, size) of the chunks of a WebP file up to `end`."""
    start = 12
    while start < end:
        file.seek(start)
        head = _exactly(file, 8)
        size = int.from_bytes(head[4:], "little")
        if start + 8 + size > end:
            raise EOFError
        yield head[:4], start + 8, size
        start += 8 + size + size % 2


def exif_comment(comment: str) -> bytes:
    """Return Exif data that hold an ASCII text as the user's comment."""
    from PIL import ExifTags, Image

    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _COMMENT + comment.encode("ascii")
    return exif.tobytes().removeprefix(_EXIF)


def _exif_text(data: bytes) -> str:
    from PIL import ExifTags, Image

    try:
        exif = Image.Exif()
        exif.load(data)
        comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
        return comment.removeprefix(_COMMENT).decode("ascii", "replace") if isinstance(comment, bytes) else ""
    except Exception:  # damaged Exif data raise anything; the frames are sound
        return ""


def _webp(file: BinaryIO, path: str) -> Animation | None:
    end = int.from_bytes(_exactly(file, 12)[4:8], "little") + 8
    if file.seek(0, 2) < end:
        raise EOFError
    width, height, moves, comment, milliseconds = 0, 0, False, "", []
    for name, start, size in chunks(file, end):
        file.seek(start)
        if name == b"VP8X":
            header = _exactly(file, 10)
            width, height = (int.from_bytes(header[at : at + 3], "little") + 1 for at in (4, 7))
            moves = bool(header[0] & 2)
        elif name == b"ANMF":
            milliseconds.append(int.from_bytes(_exactly(file, 16)[12:15], "little"))
            check_frames(path, len(milliseconds))
        elif name == b"EXIF" and size < _LONGEST:
            comment = _exif_text(_exactly(file, size))
    if not moves:
        return None
    return _animation(width, height, [Fraction(n, 1000) for n in milliseconds], comment, Fraction(1, 1000))


def _gif(file: BinaryIO, path: str) -> Animation:
    width, height, _ = skip_gif_screen(file)
    comment, delay, delays = "", 0, []
    for kind, _header, data in gif_blocks(file):
        if kind == 0xF9 and len(data) >= 3:
            delay = int.from_bytes(data[1:3], "little")
        elif kind == 0xFE and len(data) < _LONGEST:
            comment = data.decode("ascii", "replace")
        elif kind == 0x2C:
            delays.append(Fraction(delay, 100))
            check_frames(path, len(delays))
            delay = 0
    return _animation(width, height, delays, comment, Fraction(1, 100))


def _png(file: BinaryIO, path: str) -> Animation | None:
    length, start, width, height = file.seek(0, 2), 8, 0, 0
    stated, hidden, delays = None, False, []
    while True:
        file.seek(start)
        head = _exactly(file, 8)
        size, name = int.from_bytes(head[:4], "big"), head[4:]
        if start + 12 + size > length:
            raise EOFError
        if name == b"IHDR":
            sides = _exactly(file, 8)
            width, height = int.from_bytes(sides[:4], "big"), int.from_bytes(sides[4:], "big")
        elif name == b"acTL":
            stated = int.from_bytes(_exactly(file, 4), "big")
        elif name == b"IDAT":
            if stated is None:
                return None
            hidden = hidden or not delays
        elif name == b"fcTL":
            control = _exactly(file, 24)
            delay, parts = (int.from_bytes(control[at : at + 2], "big") for at in (20, 22))
            delays.append(Fraction(delay, parts or 100))
            check_frames(path, len(delays))
        elif name == b"IEND":
            break
        start += 12 + size
    if stated is None:
        return None
    if stated != len(delays):
        raise damaged(path, f"{len(delays)} of {stated} frames are there")
    base = Fraction(1, 1000)
    return _animation(width, height, delays, "", base, hidden)


def _animation(
    width: int, height: int, durations: list[Fraction], comment: str, base: Fraction, hidden: bool = False
) -> Animation:
    at_once = sum(duration <= AT_ONCE for duration in durations)
    return Animation(
        width=width,
        height=height,
        durations=[USUAL if duration <= AT_ONCE else duration for duration in durations],
        comment=comment,
        base=base,
        hidden_first=hidden,
        slowed=at_once,
    )


def _sub_blocks(file: BinaryIO) -> Iterator[bytes]:
    while size := _exactly(file, 1)[0]:
        yield _exactly(file, size)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data
