"""Bad images: of every mode and format, then damaged, forged or swollen, opened as each reader opens them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from bad_inputs.command_lines import run_command
from bad_inputs.trial import Attempt

MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I", "F", "CMYK", "YCbCr", "LAB", "HSV", "PA", "RGBX")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "AVIF", "JPEG2000")
FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "text": b"not an image" * 20,
    "a web page": b"<!DOCTYPE html><html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file closefile\n",
    "a PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "a PNG's first bytes": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "a JPEG's first bytes": b"\xff\xd8\xff\xe0" + bytes(64),
    "a RIFF without end": b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(64),
}


@dataclass(frozen=True)
class Ready:
    """The model that edits, and a sound image to edit under a bad mask."""

    model: Path
    image: Path


def prepare(folder: Path, model: Path) -> Ready:
    """Write the sound image."""
    Image.new("RGB", (64, 64), "green").save(folder / "sound.png")
    return Ready(model, folder / "sound.png")


def attempt(rng: random.Random, ready: Ready, place: Path) -> Attempt:
    """Make an image and open it by one of the readers."""
    makers = (odd, odd, _cut, bits, bits, png_chunks, png_chunks, _swollen, foreign, _exif, _frames, _frames)
    make = rng.choice((*makers, _palette, _progressive, _profile, _profile))
    content, what, invalid = make(rng)
    path = place / "given" / f"x.{rng.choice(('png', 'png', 'jpg', 'webp', 'tiff', 'bmp'))}"
    path.write_bytes(content)
    readers: dict[str, Callable[[], list[str]]] = {
        "opened": lambda: _open(path),
        "its settings read": lambda: _settings(path),
        "trained on": lambda: _train_on(path),
        "edited": lambda: run_command(
            *(
                "edit",
                str(path),
                "a red apple",
                "--model",
                str(ready.model),
                "--device",
                "cpu",
                "--steps",
                "1",
            ),
            *("--strength", "1", "--seed", "1", "--size", "64", "--output", "out.png"),
        ),
        "a mask": lambda: run_command(
            *("edit", str(ready.image), "a red apple", "--mask", str(path), "--model", str(ready.model)),
            *("--device", "cpu", "--steps", "1", "--strength", "1", "--seed", "1", "--output", "out.png"),
        ),
    }
    how = rng.choice(
        ("opened", "opened", "its settings read", "trained on", "trained on", "edited", "a mask")
    )
    return Attempt(f"{what} as {path.suffix}, {how}", readers[how], invalid)


def _open(path: Path) -> list[str]:
    """Open it as an upload is: upright, on white, and as a mask of its own."""
    from sanakit.images.masks import repaint_mask, transparency_mask
    from sanakit.images.opening import flatten, open_image

    with path.open("rb") as file:
        image = open_image(file, "The image")
    flat = flatten(image)
    assert flat.mode == "RGB"
    transparency_mask(image)
    repaint_mask(image, flat.size)
    return []


def _settings(path: Path) -> list[str]:
    from sanakit.images.image import read_metadata

    read_metadata(path)
    return []


def _train_on(path: Path) -> list[str]:
    from sanakit.data.read.decode import decode, image_size

    with path.open("rb") as file:
        height, width = image_size(file)
    assert height > 0 < width
    assert decode(path.read_bytes(), 64, 32).shape == (3, 64, 32)
    return []


def _file(rng: random.Random, kind: str | None = None) -> tuple[bytes, str]:
    """Return a sound image's file, of any mode that its format takes."""
    size = rng.choice(((64, 64), (1, 1), (1, 200), (65, 31), (300, 200)))
    noise = np.random.default_rng(rng.randrange(2**32)).integers(
        0, 256, (size[1], size[0], 3), dtype=np.uint8
    )
    image = Image.fromarray(noise)
    for _ in range(20):
        mode, format_ = rng.choice(MODES), kind or rng.choice(FORMATS)
        file = io.BytesIO()
        try:
            converted = (
                image.convert(mode) if mode not in ("LA", "PA", "I;16") else image.convert("L").convert(mode)
            )
            converted.save(file, format_)
        except (OSError, ValueError, KeyError):  # this format has no such mode, or no writer here
            continue
        return file.getvalue(), f"{format_} {mode} {size[0]}x{size[1]}"
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue(), "PNG RGB"


def odd(rng: random.Random) -> tuple[bytes, str, bool]:
    content, what = _file(rng)
    return content, what, False


def _cut(rng: random.Random) -> tuple[bytes, str, bool]:
    content, what = _file(rng, rng.choice(("PNG", "JPEG", "WEBP", "TIFF", "BMP")))
    end = rng.randrange(len(content) * 2 // 3)  # a JPEG without its last bytes may still be whole
    return content[:end], f"{what}, its first {end} bytes of {len(content)}", True


def bits(rng: random.Random) -> tuple[bytes, str, bool]:
    content, what = _file(rng)
    damaged = bytearray(content)
    places = [
        rng.randrange(min(len(content), rng.choice((40, 400, 10**9)))) for _ in range(rng.choice((1, 3, 30)))
    ]
    for place in places:
        damaged[place] ^= 1 << rng.randrange(8)
    return bytes(damaged), f"{what}, other bits at {places[:5]}", False


def foreign(rng: random.Random) -> tuple[bytes, str, bool]:
    name = rng.choice(list(FOREIGN))
    return FOREIGN[name], name, True


def _swollen(rng: random.Random) -> tuple[bytes, str, bool]:
    """Claim more pixels than any memory holds; a PNG of zeros needs few bytes for them."""
    width, height = rng.choice(
        ((2**31 - 1, 2**31 - 1), (100_000, 100_000), (65_000, 2000), (8193, 8193), (0, 9))
    )
    held = zlib.compress(bytes(min(width * 3 + 1, 10**6) * min(height, 300)), 9)
    content = _png(
        [("IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), ("IDAT", held), ("IEND", b"")]
    )
    return content, f"a PNG that claims {width}x{height}", True


def png_chunks(rng: random.Random) -> tuple[bytes, str, bool]:
    """Put strange chunks into a PNG: texts that swell, profiles that are none, chunks in a wrong order."""
    header = struct.pack(
        ">IIBBBBB", 16, 16, rng.choice((8, 8, 8, 1, 16, 3, 0)), rng.choice((2, 2, 2, 0, 3, 6, 7)), 0, 0, 0
    )
    pixels = zlib.compress((b"\0" + bytes(16 * 8)) * 16)
    swell = zlib.compress(bytes(1 << 26))
    extra = rng.choice(
        (
            ("zTXt", b"prompt\0\0" + swell),
            ("iTXt", b"prompt\0\1\0\0\0" + swell),
            ("tEXt", b"seed\0not a number"),
            (
                "tEXt",
                b"size\0" + rng.choice((b"1x", b"axb", b"-1x-1", b"9" * 5000 + b"x1", b"1x1x1", b"\xff")),
            ),
            ("iCCP", b"x\0\0" + zlib.compress(rng.choice((b"", b"junk" * 99, bytes(1 << 24))))),
            ("eXIf", rng.choice((b"", b"Exif\0\0", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*" + bytes(64)))),
            ("tRNS", rng.choice((b"", b"\0", bytes(300)))),
            ("PLTE", rng.choice((b"", b"\0", bytes(3 * 300)))),
            ("gAMA", b""),
            ("acTL", struct.pack(">II", 2**31, 0)),
            ("IHDR", header),
        )
    )
    chunks = [("IHDR", header), extra, ("IDAT", pixels), ("IEND", b"")]
    for key, text in (("prompt", b"an apple"), ("size", b"16x16"), ("steps", b"x"), ("model", b"m"))[
        : rng.randrange(5)
    ]:
        chunks.insert(1, ("tEXt", key.encode() + b"\0" + text))
    if rng.random() < 0.3:
        rng.shuffle(chunks)
    return _png(chunks, wrong_sum=rng.random() < 0.2), f"a PNG with {extra[0]} {extra[1][:30]!r}", False


def _exif(rng: random.Random) -> tuple[bytes, str, bool]:
    """Give a photograph strange EXIF data, or a strange orientation."""
    image, file = Image.new("RGB", (40, 20), "red"), io.BytesIO()
    orientation = rng.choice((0, 1, 6, 9, 255, -1, "x", 2**31))
    exif = Image.Exif()
    try:
        exif[0x0112] = orientation
        block = exif.tobytes()
    except (struct.error, TypeError, ValueError):
        block = b"Exif\0\0junk"
    damaged = bytearray(block)
    if rng.random() < 0.5 and len(damaged) > 8:
        damaged[rng.randrange(6, len(damaged))] ^= 0xFF
    image.save(file, rng.choice(("JPEG", "WEBP", "PNG")), exif=bytes(damaged))
    return file.getvalue(), f"EXIF {bytes(damaged)[:40]!r}", False


def _frames(rng: random.Random) -> tuple[bytes, str, bool]:
    """Make an animation, and one without frames or with fewer than it says."""
    kind = rng.choice(("GIF", "PNG", "WEBP", "TIFF", "AVIF"))
    frames = [Image.new("RGBA", (24, 16), (40 * n, 9, 9, rng.choice((0, 255)))) for n in range(3)]
    try:
        frames[0].save(file := io.BytesIO(), kind, save_all=True, append_images=frames[1:], duration=50)
    except (OSError, KeyError):  # no writer here
        return odd(rng)
    content = file.getvalue()
    how = rng.choice(("whole", "cut", "none", "fewer"))
    if how == "cut":
        content = content[: rng.randrange(len(content) // 2, len(content))]
    elif how == "none":  # a GIF ends before its first image; a PNG says that it has no frames
        if kind == "PNG":
            content = content.replace(b"acTL" + struct.pack(">I", 3), b"acTL" + struct.pack(">I", 0))
        else:
            content = content[:13] + b";" if kind == "GIF" else content[:20]
    elif how == "fewer" and kind == "PNG":
        content = content.replace(b"acTL" + struct.pack(">I", 3), b"acTL" + struct.pack(">I", 2**31 - 1))
    return content, f"{kind} of three frames: {how}", how == "none" and kind != "PNG"


def _palette(rng: random.Random) -> tuple[bytes, str, bool]:
    """Make an image of a palette that is shorter than its numbers, with transparency that is longer."""
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16), "P")
    colours = rng.choice((1, 2, 200, 256))
    image.putpalette(rng.randbytes(3 * colours))
    clear: int | bytes = rng.choice((0, 255, bytes(colours), bytes(256), rng.randbytes(7)))
    kind = rng.choice(("PNG", "GIF", "TIFF")) if isinstance(clear, int) else "PNG"
    image.save(file := io.BytesIO(), kind, transparency=clear)
    return file.getvalue(), f"a palette of {colours} colours, clear: {str(clear)[:20]}", False


def _progressive(rng: random.Random) -> tuple[bytes, str, bool]:
    """Cut a progressive or CMYK JPEG in one of its scans, or make its sides other ones."""
    mode = rng.choice(("RGB", "L", "CMYK", "YCbCr"))
    noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    image.save(file := io.BytesIO(), "JPEG", progressive=rng.random() < 0.8, quality=60)
    content = bytearray(file.getvalue())
    how = rng.choice(("cut", "sides", "components", "twice"))
    frame = max(content.find(b"\xff\xc2"), content.find(b"\xff\xc0"))
    if how == "cut":
        content = content[: rng.randrange(frame + 20, len(content) * 2 // 3)]
    elif how == "sides":
        content[frame + 5 : frame + 9] = struct.pack(">HH", *rng.choice(((0, 48), (65500, 65500), (64, 0))))
    elif how == "components":
        content[frame + 9] = rng.choice((0, 2, 5, 255))
    else:
        content = content + content
    return bytes(content), f"a JPEG {mode}: {how}", how in ("cut", "sides", "components")


def _profile(rng: random.Random) -> tuple[bytes, str, bool]:
    """Give an image a colour profile that is junk, of other colours, or cut."""
    sound = ImageCms.ImageCmsProfile(ImageCms.createProfile(rng.choice(("sRGB", "LAB", "XYZ")))).tobytes()
    spoiled = bytearray(sound)
    for _ in range(rng.choice((1, 20))):
        spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
    profile = rng.choice(
        (sound, bytes(spoiled), sound[: rng.randrange(len(sound))], b"\0", rng.randbytes(500))
    )
    mode, kind = rng.choice(
        (("RGB", "PNG"), ("L", "PNG"), ("CMYK", "JPEG"), ("RGB", "TIFF"), ("RGBA", "WEBP"))
    )
    image = Image.new("RGB", (20, 20), "orange").convert(mode)
    image.save(file := io.BytesIO(), kind, icc_profile=profile)
    return file.getvalue(), f"{kind} {mode} with a profile {profile[:12]!r} of {len(profile)} bytes", False


def _png(chunks: list[tuple[str, bytes]], *, wrong_sum: bool = False) -> bytes:
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        body = name.encode() + data
        content += struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body) ^ wrong_sum)
    return content
