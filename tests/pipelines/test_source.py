"""Any image to what a model takes in, and back: modes, orientations, odd sizes, damaged files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sanakit.errors import SettingsError, SizeError
from sanakit.images.masks import repaint_mask, transparency_mask
from sanakit.images.opening import MAX_PIXELS, flatten, open_image
from sanakit.pipelines.request import ModelSpec
from sanakit.pipelines.source import make_source
from sanakit.weights.settings import ModelSettings

SPEC = ModelSpec(
    settings=ModelSettings(name="tiny", width=128, height=128),
    latent_channels=8,
    sample_size=4,
    compression=32,
)
BINNED = ModelSpec(
    settings=ModelSettings(name="big", width=512, height=512),
    latent_channels=8,
    sample_size=16,
    compression=32,
)
ORIENTATION = 274


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    levels = np.random.default_rng(width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(levels)


def boxed(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Image.Image:
    """A black mask with white boxes: left, top, right, bottom."""
    mask = Image.new("L", size)
    for box in boxes:
        mask.paste(255, box)
    return mask


def stored(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


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


# Sizes


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((128, 128), (128, 128)),
        ((1, 1), (128, 128)),
        ((4000, 4000), (128, 128)),
        ((100, 99), (128, 128)),
        ((640, 360), (160, 96)),
        ((31, 93), (64, 224)),
        ((160, 10), (512, 64)),
        ((10, 160), (64, 512)),
    ],
)
def test_a_picture_is_drawn_near_the_models_own_size_and_given_back_in_its_own(size, drawn) -> None:
    made = make_source(SPEC, noise(*size), 0.5)
    assert made.pixels.shape == (1, 3, drawn[1], drawn[0])
    assert made.size == (size[1], size[0])
    assert made.finish(Image.new("RGB", drawn, "red")).size == size


def test_pixels_of_the_drawn_size_go_in_and_out_unchanged() -> None:
    image = noise(128, 128)
    made = make_source(SPEC, image, 0.5)
    levels = (made.pixels[0].permute(1, 2, 0) + 1) * 127.5
    assert torch.equal(levels.round().to(torch.uint8), torch.from_numpy(np.array(image)))
    assert made.pixels.abs().max() <= 1
    drawn = Image.new("RGB", (128, 128), "red")
    assert same(made.finish(drawn), drawn)


def test_a_picture_too_narrow_to_be_drawn_is_refused_unless_it_is_cut() -> None:
    ribbon = noise(5000, 40)
    with pytest.raises(SizeError, match=r"5000x40 px is too narrow.*16:1"):
        make_source(SPEC, ribbon, 0.5)
    made = make_source(SPEC, ribbon, 0.5, width=96, height=64)
    assert made.pixels.shape == (1, 3, 64, 96)
    assert made.size == (64, 96)


def test_a_given_size_cuts_the_middle_and_the_mask_with_it() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    mask = boxed((300, 100), (100, 0, 150, 100))
    made = make_source(SPEC, image, 0.5, width=64, height=64, mask=mask, feather=0)
    assert made.pixels[0, :, 32, 4:-4].mean(1).tolist() == [-1, -1, 1]
    assert made.mask is not None
    assert made.mask[0, 0].tolist() == [[1, 0], [1, 0]]
    result = np.asarray(made.finish(Image.new("RGB", (64, 64), "white")))
    assert (result[:, :32] == 255).all()
    assert (result[:, 36:-4] == [0, 0, 255]).all()


@pytest.mark.parametrize(("given", "size"), [({"width": 96}, (128, 96)), ({"height": 64}, (64, 128))])
def test_one_given_side_leaves_the_other_to_the_model(given, size) -> None:
    assert make_source(SPEC, noise(50, 40), 0.5, **given).size == size


@pytest.mark.parametrize(
    "given", [{"width": 100}, {"width": 32}, {"height": 5000}, {"width": 96.0}, {"width": True}]
)
def test_a_given_size_that_can_not_be_drawn_is_refused(given) -> None:
    with pytest.raises(SizeError):
        make_source(SPEC, noise(50, 40), 0.5, **given)


def test_models_with_bins_draw_in_them_and_give_any_size() -> None:
    made = make_source(BINNED, noise(300, 236), 0.5)
    assert made.pixels.shape == (1, 3, 448, 576)
    assert made.size == (236, 300)
    odd = make_source(BINNED, noise(50, 50), 0.5, width=301, height=235)
    assert odd.pixels.shape == (1, 3, 448, 576)
    assert odd.finish(Image.new("RGB", (576, 448))).size == (301, 235)
    free = make_source(BINNED, noise(300, 236), 0.5, binned=False)
    assert free.pixels.shape == (1, 3, 448, 576)  # 577 x 454, to the nearest 32
    tall = make_source(BINNED, noise(100, 1000), 0.5, binned=False)
    assert tall.pixels.shape == (1, 3, 1632, 160)
    assert make_source(BINNED, noise(100, 1000), 0.5).pixels.shape == (1, 3, 1024, 256)  # the narrowest bin


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), float("inf"), None, "0.5", True])
def test_a_strength_out_of_range_is_refused(strength) -> None:
    with pytest.raises(SettingsError, match=r"strength = .* from 0 \(keep\) to 1 \(redraw\)"):
        make_source(SPEC, noise(64, 64), strength)


@pytest.mark.parametrize("strength", [0, 1, 0.25])
def test_a_strength_in_range_is_kept_as_a_float(strength) -> None:
    made = make_source(SPEC, noise(64, 64), strength)
    assert isinstance(made.strength, float)
    assert made.strength == strength
