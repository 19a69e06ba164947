"""Pictures' files to pixels: upright, scaled well, cut from the middle, and every kind of broken file."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.data.read.decode import cut_of, decode, image_size
from sanakit.errors import DataError

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF"]


def photo(width: int, height: int) -> Image.Image:
    """Soft shapes with some grain, as photographs have."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray((soft + generator.normal(0, 4, soft.shape)).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((one.astype(np.float64) - two) ** 2))


def as_array(pixels: torch.Tensor) -> np.ndarray:
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_data_say(picture, file_format: str, orientation: int) -> None:
    """The oracle: Pillow's own `exif_transpose`."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if file_format == "BMP" else {"exif": exif}
    content = picture(64, 40, file_format=file_format, **options)
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    height, width = image_size(io.BytesIO(content))
    assert (width, height) == upright.size
    assert np.array_equal(as_array(decode(content, height, width)), np.asarray(upright))


def test_a_picture_of_the_right_size_is_given_pixel_by_pixel() -> None:
    image = photo(96, 64)
    assert np.array_equal(as_array(decode(saved(image, "PNG"), 64, 96)), np.asarray(image))


@pytest.mark.parametrize("side", [300, 500, 800])
def test_scaling_equals_pillows_within_one_level(side: int) -> None:
    image = photo(side, side)
    expected = np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(as_array(decode(saved(image, "PNG"), 256, 256)) - expected).max() <= 1


@pytest.mark.parametrize(("side", "times"), [(515, 2), (768, 2), (1027, 4)])
def test_jpeg_files_that_are_scaled_while_decoding_come_out_nearly_the_same(side: int, times: int) -> None:
    content = saved(photo(side, side), "JPEG", quality=92)
    with Image.open(io.BytesIO(content)) as image:
        whole = side // times * times  # a last row or column that is cut in half by scaling is left out
        expected = image.crop((0, 0, whole, whole)).resize((256, 256), Image.Resampling.BICUBIC)
    assert psnr(as_array(decode(content, 256, 256)), np.asarray(expected)) > 43


def test_the_middle_of_the_picture_is_kept(picture) -> None:
    pixels = as_array(decode(picture(400, 100, file_format="PNG"), 100, 100))
    assert tuple(pixels[50, 49]) == (255, 0, 0)
    assert tuple(pixels[50, 50]) == (0, 0, 255)
    assert cut_of(100, 400, 64, 64) == (0, 150, 100, 100)
    assert cut_of(1, 4000, 64, 64) == (0, 1999, 1, 1)


def test_of_a_tall_picture_the_middle_is_kept_too() -> None:
    tall = Image.new("RGB", (100, 400), "red")
    tall.paste((0, 0, 255), (0, 200, 100, 400))
    file = io.BytesIO()
    tall.save(file, "PNG")
    pixels = as_array(decode(file.getvalue(), 100, 100))
    assert tuple(pixels[49, 50]) == (255, 0, 0)
    assert tuple(pixels[50, 50]) == (0, 0, 255)
    assert cut_of(400, 100, 64, 64) == (150, 0, 100, 100)


def test_any_cut_lies_in_the_picture_and_has_the_ratio() -> None:
    generator = np.random.default_rng(1)
    for _ in range(2000):
        came = generator.integers(1, 5000, 2).tolist()
        size = (32 * generator.integers(1, 64, 2)).tolist()
        top, left, height, width = cut_of(*came, *size)
        assert 0 <= top <= top + height <= came[0]
        assert 0 <= left <= left + width <= came[1]
        assert height == came[0] or width == came[1]
        ideal = min(came[0] / size[0], came[1] / size[1])
        assert abs(height - max(1, size[0] * ideal)) <= 0.5
        assert abs(width - max(1, size[1] * ideal)) <= 0.5


def test_what_is_transparent_lies_on_white_and_other_modes_become_rgb() -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert decode(saved(clear, "PNG"), 32, 32).min() == 255
    for mode, file_format in (("L", "JPEG"), ("P", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("I;16", "PNG")):
        assert decode(saved(Image.new(mode, (80, 80)), file_format), 32, 32).shape == (3, 32, 32)


def bomb() -> bytes:
    """A PNG file whose header asks for 60,000 x 60,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return start + struct.pack(">I", 4) + b"IDAT" + bytes(8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GIF89a" + bytes(100), "is not a JPEG, PNG, WEBP, BMP or TIFF image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not a JPEG"),
        (b"\xff\xd8\xff\xe0" + bytes(3), "is "),
        (bomb(), "has more pixels than 67 million"),
        (saved(Image.new("1", (9000, 9000)), "PNG"), "has 9000x9000 px, more than 67 million"),
    ],
)
def test_a_header_that_is_none_is_explained(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        image_size(io.BytesIO(content))
    with pytest.raises(DataError, match=f"^{message}"):
        decode(content, 32, 32)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_file_that_ends_early_is_explained(file_format: str) -> None:
    content = saved(photo(128, 128), file_format)
    with pytest.raises(DataError, match=r"^is damaged"):
        decode(content[: len(content) // 2], 64, 64)


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow has to say about damaged TIFF and EXIF data
@pytest.mark.parametrize("file_format", FORMATS)
def test_whatever_is_wrong_with_a_file_is_a_data_error(file_format: str) -> None:
    """Bytes changed at random: each file is decoded, or refused with a reason."""
    content = saved(photo(48, 48), file_format)
    generator = np.random.default_rng(2)
    for _ in range(150):
        damaged = np.frombuffer(content, np.uint8).copy()
        where = generator.integers(0, min(len(damaged), 400), 4)
        damaged[where] = generator.integers(0, 256, 4)
        with suppress(DataError):  # anything else that is raised fails the test
            assert decode(damaged.tobytes(), 32, 32).shape == (3, 32, 32)


@pytest.mark.parametrize(
    "pixels",
    [
        np.linspace(0, 1, 64, dtype=np.float32),
        np.linspace(0, 255, 64, dtype=np.float32),
        np.linspace(0, 255, 64).astype(np.int32),
    ],
    ids=["float 0 to 1", "float 0 to 255", "int32"],
)
def test_pixels_of_unknown_range_are_named_by_their_header(pixels: np.ndarray) -> None:
    content = saved(Image.fromarray(pixels.reshape(8, 8)), "TIFF")
    for read in (lambda: image_size(io.BytesIO(content)), lambda: decode(content, 8, 8)):
        with pytest.raises(DataError, match="32 bits a pixel, and nothing says which value is white"):
            read()


@pytest.mark.parametrize("file_format", ["TIFF", "PNG"])
def test_sixteen_bits_are_brought_to_eight(file_format: str) -> None:
    grey = np.full((8, 8), 200 * 256, dtype=np.uint16)
    assert (as_array(decode(saved(Image.fromarray(grey), file_format), 8, 8)) == 200).all()


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_an_animation_is_not_trained_on_by_its_first_frame(file_format: str) -> None:
    stills = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    moving, still = io.BytesIO(), io.BytesIO()
    stills[0].save(moving, file_format, save_all=True, append_images=stills[1:])
    stills[0].save(still, file_format)
    for read in (image_size, lambda file: decode(file.getvalue(), 8, 8)):
        with pytest.raises(DataError, match="is an animation, not an image"):
            read(moving)
    assert image_size(still) == (16, 16)
