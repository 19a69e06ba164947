"""A PNG file by its specification, third edition: chunks, their order, checksums, text, profiles, pixels.

Written for tests: decoders forgive much of this. Source: https://www.w3.org/TR/png-3/, sections 5 and 11.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
BEFORE_PALETTE = (b"cHRM", b"cICP", b"gAMA", b"iCCP", b"mDCV", b"cLLI", b"sBIT", b"sRGB")
BEFORE_PIXELS = (*BEFORE_PALETTE, b"PLTE", b"bKGD", b"hIST", b"tRNS", b"eXIf", b"pHYs", b"sPLT")
SEVERAL = (b"IDAT", b"iTXt", b"sPLT", b"tEXt", b"zTXt")
LENGTHS = {b"IEND": 0, b"gAMA": 4, b"pHYs": 9, b"sRGB": 1, b"tIME": 7, b"cHRM": 32}
KEYWORD = re.compile(rb"[\x21-\x7e\xa1-\xff]+( [\x21-\x7e\xa1-\xff]+)*")


class FaultError(Exception):
    """What is wrong with a chunk."""


def faults_of(data: bytes) -> list[str]:
    """Return every fault of a PNG file's bytes, in words; empty for a valid one."""
    if not data.startswith(SIGNATURE):
        return ["the signature is missing"]
    chunks, faults = [], []
    try:
        for name, content in _chunks(data):
            chunks.append((name, content))
    except FaultError as error:
        faults.append(str(error))
    names = [name for name, _ in chunks]
    if names[:1] != [b"IHDR"] or len(chunks[0][1]) != 13:
        return [*faults, "it does not begin with IHDR"]
    header = struct.unpack(">IIBBBBB", chunks[0][1])
    faults += _of_order(names, header[3])
    for name, content in chunks:
        try:
            _check(name, content, header)
        except FaultError as error:
            faults.append(f"{name.decode()}: {error}")
    if not faults:
        pixels = b"".join(content for name, content in chunks if name == b"IDAT")
        faults += _of_pixels(pixels, header)
    return faults


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(SIGNATURE)
    while place < len(data):
        if len(data) - place < 12:
            raise FaultError(f"{len(data) - place} bytes at the end are not a chunk")
        length, name = struct.unpack_from(">I4s", data, place)
        if not name.isalpha() or not name[2:3].isupper():
            raise FaultError(f"a chunk is called {name!r}")
        if length > 2**31 - 1 or place + 12 + length > len(data):
            raise FaultError(f"{name.decode()} says {length} bytes, more than there are")
        content = data[place + 8 : place + 8 + length]
        if struct.unpack_from(">I", data, place + 8 + length)[0] != zlib.crc32(name + content):
            raise FaultError(f"{name.decode()} has a wrong checksum")
        place += 12 + length
        yield name, content


def _of_order(names: list[bytes], colour: int) -> Iterator[str]:
    pixels = [place for place, name in enumerate(names) if name == b"IDAT"]
    if names[-1] != b"IEND" or names.count(b"IEND") != 1:
        yield "IEND is not the end"
    if not pixels or pixels != list(range(pixels[0], pixels[-1] + 1)):
        yield "IDAT is missing or parted"
        return
    if (colour == 3 and b"PLTE" not in names) or (colour in (0, 4) and b"PLTE" in names):
        yield "PLTE does not fit the colour type"
    if b"iCCP" in names and b"sRGB" in names:
        yield "iCCP and sRGB exclude each other"
    palette = names.index(b"PLTE") if b"PLTE" in names else pixels[0]
    for place, name in enumerate(names):
        late = (name in BEFORE_PALETTE and place > palette) or (name in BEFORE_PIXELS and place > pixels[0])
        if late:
            yield f"{name.decode()} comes too late"
        if name in (b"bKGD", b"hIST", b"tRNS") and place < palette and palette != pixels[0]:
            yield f"{name.decode()} comes before PLTE"
        if name[:1].isupper() and name not in CRITICAL:
            yield f"the critical chunk {name.decode()} is unknown"
    for name, count in Counter(names).items():
        if count > 1 and name not in SEVERAL:
            yield f"{name.decode()} stands {count} times"


def _check(name: bytes, content: bytes, header: tuple[int, ...]) -> None:
    """Raise FaultError for what a chunk holds."""
    if name in LENGTHS and len(content) != LENGTHS[name]:
        raise FaultError(f"{len(content)} bytes")
    if name == b"IHDR":
        width, height, depth, colour, *methods = header
        sides = 0 < width < 2**31 and 0 < height < 2**31
        if not sides or depth not in DEPTHS.get(colour, ()) or methods[:2] != [0, 0] or methods[2] > 1:
            raise FaultError(f"{header}")
    if name == b"PLTE" and (len(content) % 3 or not 3 <= len(content) <= 3 * 2 ** min(header[2], 8)):
        raise FaultError(f"{len(content)} bytes")
    if name == b"eXIf" and content[:4] not in (b"II*\0", b"MM\0*"):
        raise FaultError("it does not begin as TIFF does")
    if name in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
        keyword, parted, rest = content.partition(b"\0")
        if not parted or len(keyword) > 79 or not KEYWORD.fullmatch(keyword):
            raise FaultError(f"the keyword {keyword[:80]!r}")
        _check_named(name, rest, header[3])


def _check_named(name: bytes, rest: bytes, colour: int) -> None:
    """Raise FaultError for what stands behind a keyword."""
    if name == b"tEXt" and b"\0" in rest:
        raise FaultError("NUL in the text")
    if name in (b"zTXt", b"iCCP"):
        if rest[:1] != b"\0":
            raise FaultError("an unknown compression")
        content = _inflated(rest[1:])
        if name == b"zTXt" and b"\0" in content:
            raise FaultError("NUL in the text")
        space = b"GRAY" if colour in (0, 4) else b"RGB "
        if name == b"iCCP" and (
            len(content) < 132
            or int.from_bytes(content[:4], "big") != len(content)
            or (content[36:40], content[16:20]) != (b"acsp", space)
        ):
            raise FaultError("not an ICC profile of this colour space")
    if name == b"iTXt":
        compressed, method, fields = rest[:1], rest[1:2], rest[2:].split(b"\0", 2)
        if len(fields) != 3 or compressed not in (b"\0", b"\1") or method != b"\0":
            raise FaultError("its fields are not parted")
        language, translated, text = fields
        text = _inflated(text) if compressed == b"\1" else text
        if not re.fullmatch(rb"([A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*)?", language):
            raise FaultError(f"the language {language!r}")
        try:
            translated.decode()
            text.decode()
        except UnicodeDecodeError as error:
            raise FaultError("not UTF-8") from error
        if b"\0" in text:
            raise FaultError("NUL in the text")


def _inflated(data: bytes) -> bytes:
    inflating = zlib.decompressobj()
    try:
        content = inflating.decompress(data) + inflating.flush()
    except zlib.error as error:
        raise FaultError(f"not compressed as told ({error})") from error
    if not inflating.eof or inflating.unused_data:
        raise FaultError("the compressed data are cut or too long")
    return content


def _of_pixels(data: bytes, header: tuple[int, ...]) -> Iterator[str]:
    """Yield what is wrong with the rows of an image that is not interlaced."""
    width, height, depth, colour, *_, interlaced = header
    try:
        content = _inflated(data)
    except FaultError as error:
        yield f"IDAT: {error}"
        return
    row = 1 + (width * depth * CHANNELS[colour] + 7) // 8
    if interlaced:
        return
    if len(content) != row * height:
        yield f"IDAT: {len(content)} bytes of pixels, not {row * height}"
    elif max(content[::row]) > 4:
        yield "IDAT: an unknown filter"
