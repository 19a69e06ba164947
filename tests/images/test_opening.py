"""Any image is opened: modes, orientations, damaged files, what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sanakit.errors import SettingsError
from sanakit.images.masks import repaint_mask, transparency_mask
from sanakit.images.opening import COMMON_FORMATS, MAX_PIXELS, flatten, open_image
from tests.images.simple import boxed, noise, same

ORIENTATION = 274


def stored(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_opaque_pictures_of_any_mode_keep_their_colours(mode) -> None:
    image = ImageOps.posterize(noise(8, 6), 1).convert(mode)
    flat = flatten(image)
    assert same(flat, image.convert("RGB"))
    assert np.asarray(flat).std() > 10
    assert transparency_mask(image) is None


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa", "PA", "P"])
def test_transparent_pixels_lie_on_white(mode) -> None:
    image = Image.new("RGBA", (3, 1), (200, 200, 200, 255))
    image.putpixel((1, 0), (10, 10, 10, 0))
    if mode == "P":  # one colour of the palette is declared transparent
        image = Image.new("P", (3, 1))
        image.putpalette([200, 200, 200, 10, 10, 10])
        image.putpixel((1, 0), 1)
        image = opened(stored(image, "PNG", transparency=1))
        assert image.mode == "P"
    elif mode == "PA":
        image = Image.new("PA", (3, 1), (0, 255))
        image.putpalette([200, 200, 200, 10, 10, 10])
        image.putpixel((1, 0), (1, 0))
    else:
        image = image.convert(mode)
    assert np.asarray(flatten(image))[0].tolist() == [[200] * 3, [255] * 3, [200] * 3]
    assert np.asarray(transparency_mask(image))[0].tolist() == [0, 255, 0]


def test_half_transparency_is_mixed_with_white() -> None:
    assert flatten(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_are_scaled_to_eight_and_not_cut(mode) -> None:
    levels = np.array([[0, 256, 32768, 65535]], dtype=">u2" if mode == "I;16B" else "<u2")
    image = Image.fromarray(levels.astype("<i4")) if mode == "I" else Image.fromarray(levels)
    assert image.mode == mode
    assert np.asarray(flatten(image))[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]
    assert np.asarray(repaint_mask(image, (4, 1)))[0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_up_to_255_count_as_8_bits(dtype) -> None:
    image = Image.fromarray(np.array([[0, 1, 127, 128, 255]], dtype=dtype))
    assert image.mode in ("I", "F")
    assert np.asarray(flatten(image))[0, :, 0].tolist() == [0, 1, 127, 128, 255]
    assert np.asarray(repaint_mask(image, (5, 1)))[0].tolist() == [0, 0, 0, 255, 255]


def test_fractions_are_shares_of_white() -> None:
    image = Image.fromarray(np.array([[0, 0.25, 0.5, 1]], dtype=np.float32))
    assert np.asarray(flatten(image))[0, :, 0].tolist() == [0, 64, 128, 255]
    assert np.asarray(repaint_mask(image, (4, 1)))[0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 65536], np.int32),
        ([-1, 200], np.int32),
        ([0, 256], np.float32),
        ([-0.5, 0.5], np.float32),
        ([0, np.nan], np.float32),
        ([0, np.inf], np.float32),
    ],
)
def test_values_of_unknown_range_are_refused(values, dtype) -> None:
    image = Image.fromarray(np.array([values], dtype=dtype))
    for use in (flatten, transparency_mask, lambda image: repaint_mask(image, (2, 1))):
        with pytest.raises(SettingsError, match="scale them to whole numbers from 0 to 255"):
            use(image)


@pytest.mark.parametrize("clear", [300, 0, 65535])
def test_a_grey_value_of_16_bits_may_count_as_transparent(clear) -> None:
    """300 and 301 are the same value in 8 bits, of which only one is transparent."""
    levels = np.array([[300, 301, 0, 65535]], dtype=np.uint16)
    image = opened(stored(Image.fromarray(levels), "PNG", transparency=clear))
    transparent = (levels[0] == clear).tolist()
    shown = [
        255 if gone else level // 256 for gone, level in zip(transparent, levels[0].tolist(), strict=True)
    ]
    assert np.asarray(flatten(image))[0, :, 0].tolist() == shown
    assert np.asarray(transparency_mask(image))[0].astype(bool).tolist() == transparent


def test_a_colour_of_16_bits_may_count_as_transparent() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x8000, 0x8000, 0x8000))
    clear = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", clear) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    image = opened(b"\x89PNG\r\n\x1a\n" + chunks)
    assert np.asarray(flatten(image)).tolist() == [[[255] * 3, [128] * 3]]


def test_the_callers_picture_stays_as_it_was() -> None:
    image = noise(5, 4, 4)
    image.info["note"] = "mine"
    before = image.copy()
    flatten(image)
    transparency_mask(image)
    assert same(image, before)


def test_the_first_frame_of_an_animation_is_the_picture() -> None:
    frames = [noise(8, 8), Image.new("RGB", (8, 8), "red")]
    image = opened(stored(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    assert same(flatten(image), frames[0])


# Orientation


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_once(orientation, file_format) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    corner = boxed((48, 32), (0, 0, 16, 16)).convert("RGB")
    flat = flatten(opened(stored(corner, file_format, exif=exif)))
    right, bottom = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    sides = (48, 32) if orientation < 5 else (32, 48)
    assert flat.size == sides
    left, top = (sides[0] - 16) * right, (sides[1] - 16) * bottom
    expected = boxed(sides, (left, top, left + 16, top + 16))
    levels = np.asarray(flat.convert("L"), dtype=int)
    assert np.abs(levels - np.asarray(expected)).max() < 60  # JPEG blurs
    mask = repaint_mask(opened(stored(corner, file_format, exif=exif)), sides)
    assert (np.asarray(mask) != np.asarray(expected)).mean() < 0.01


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert same(flatten(opened(stored(noise(6, 4), "PNG", exif=exif))), noise(6, 4))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_data_never_cost_a_sound_picture() -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[270], exif[282], exif[33434] = 6, "words", (72, 1), 0.01
    sound = exif.tobytes()
    random = np.random.default_rng(0)
    image, upright = noise(6, 4), noise(6, 4).transpose(Image.Transpose.ROTATE_270)
    turned = 0
    for _ in range(300):
        damaged = np.frombuffer(sound, np.uint8).copy()
        damaged[random.integers(6, len(damaged), 4)] = random.integers(0, 256, 4)
        for data in (damaged.tobytes(), sound[: random.integers(1, len(sound))]):
            flat = flatten(opened(stored(image, "PNG", exif=data)))
            turned += same(flat, upright)
            if flat.size == image.size:
                continue
            assert flat.size == upright.size
    assert turned > 50  # where the orientation can still be read, it holds


# Damage


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
def test_files_that_were_cut_off_are_refused(file_format) -> None:
    data = stored(noise(64, 64), file_format)
    for length in (len(data) // 2, len(data) * 3 // 4):
        for use in (flatten, transparency_mask, lambda image: repaint_mask(image, (64, 64))):
            image = opened(data[:length])
            with pytest.raises(SettingsError, match=r"cannot be decoded .*save it again as PNG"):
                use(image)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_damaged_bytes_raise_nothing_but_our_error(file_format) -> None:
    data = np.frombuffer(stored(noise(16, 16), file_format), np.uint8)
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        damaged = data.copy()
        damaged[random.integers(0, len(data), 4)] = random.integers(0, 256, 4)
        try:
            image = opened(damaged.tobytes())
        except Exception:  # that is for whoever opens the file
            continue
        for use in (flatten, transparency_mask):
            try:
                use(image)
            except SettingsError:
                refused += 1
    assert refused


@pytest.mark.parametrize("error", [struct.error("bad"), EOFError("bad"), KeyError("bad"), OSError("bad")])
def test_whatever_a_reader_stumbles_over_is_named(error, monkeypatch) -> None:
    image = noise(4, 4)

    def load() -> None:
        raise error

    monkeypatch.setattr(image, "load", load)
    with pytest.raises(SettingsError, match="The image cannot be decoded"):
        flatten(image)
    with pytest.raises(SettingsError, match="The mask cannot be decoded"):
        repaint_mask(image, (4, 4))


def test_memory_that_runs_out_is_no_damage(monkeypatch) -> None:
    image = noise(4, 4)
    monkeypatch.setattr(image, "load", lambda: bytearray(1 << 62))
    with pytest.raises(MemoryError):
        flatten(image)


def test_bombs_are_refused_before_they_are_decoded(monkeypatch) -> None:
    def header(width: int, height: int) -> bytes:
        data = stored(Image.new("1", (1, 1)), "BMP")
        return data[:18] + struct.pack("<ii", width, height) + data[26:]

    bomb = opened(header(9000, 9000))
    assert bomb.width * bomb.height > MAX_PIXELS
    monkeypatch.setattr(bomb, "load", lambda: pytest.fail("decoded"))
    for use in (flatten, transparency_mask, lambda image: repaint_mask(image, image.size)):
        with pytest.raises(SettingsError, match=r"9000x9000 px, more than the limit of 67 million"):
            use(bomb)


@pytest.mark.parametrize("image", [None, "cat.png", b"", np.zeros((4, 4, 3), dtype=np.uint8)])
def test_what_is_no_picture_is_refused(image) -> None:
    for use in (flatten, transparency_mask, lambda image: repaint_mask(image, (4, 4))):
        with pytest.raises(SettingsError, match=r"PIL\.Image\.open"):
            use(image)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(SettingsError, match="0x5 px"):
        flatten(Image.new("RGB", (0, 5)))


def test_a_pipe_is_refused_at_once(fifo: Path) -> None:
    with pytest.raises(SettingsError, match=r"fifo.png cannot be read \(it is a pipe"):
        open_image(fifo, "fifo.png")


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_a_file_that_is_an_animation_is_not_taken_for_its_first_frame(
    tmp_path: Path, file_format: str
) -> None:
    stills, path = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")], tmp_path / "a"
    stills[0].save(path, file_format, save_all=True, append_images=stills[1:])
    with pytest.raises(SettingsError, match="My file is an animation, not one image: save the frame"):
        open_image(path, "My file", (*COMMON_FORMATS, "GIF", "AVIF"))
    stills[0].save(path, file_format)
    assert open_image(path, "My file", (*COMMON_FORMATS, "GIF", "AVIF")).size == (16, 16)


@pytest.mark.parametrize("file_format", ["MPO", "TIFF"])
def test_further_images_beside_the_first_are_no_animation(tmp_path: Path, file_format: str) -> None:
    """Cameras keep previews there, scanners pages."""
    stills, path = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")], tmp_path / "a"
    stills[0].save(path, file_format, save_all=True, append_images=stills[1:])
    assert np.asarray(open_image(path, "My file", ("JPEG", "TIFF")))[0, 0].argmax() == 0
