"""Masks of an image: what marks, which latents it reaches, and how what is drawn fades in."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.masks import repaint_mask, transparency_mask
from sanakit.pipelines.control import InitialImage
from sanakit.pipelines.request import ModelSpec
from sanakit.pipelines.source import FEATHER, make_source
from sanakit.weights.settings import ModelSettings
from tests.images.simple import boxed, noise, same

SPEC = ModelSpec(
    settings=ModelSettings(name="tiny", width=128, height=128),
    latent_channels=8,
    sample_size=4,
    compression=32,
)


def fade(size: tuple[int, int], *boxes: tuple[int, int, int, int], feather: int) -> np.ndarray:
    """How much of what is drawn shows at each pixel, 0 to 255: white drawn over black."""
    mask = boxed(size, *boxes)
    made = make_source(SPEC, Image.new("RGB", size), 1.0, mask=mask, feather=feather)
    return np.asarray(made.finish(Image.new("RGB", size, "white")))[..., 0]


def masked(mask: Image.Image, size: tuple[int, int] = (128, 128)) -> InitialImage:
    return make_source(SPEC, noise(*size), 1.0, mask=mask)


def test_latents_that_one_masked_pixel_touches_are_drawn_anew() -> None:
    made = masked(boxed((128, 128), (32, 64, 33, 65), (31, 127, 32, 128)))
    assert made.mask is not None
    expected = torch.zeros(4, 4)
    expected[2, 1] = expected[3, 0] = 1
    assert torch.equal(made.mask, expected[None, None])


def test_a_pixel_of_a_scaled_picture_marks_every_latent_it_covers() -> None:
    made = masked(boxed((10, 10), (2, 0, 3, 1)), (10, 10))  # 12.8 px each: 25.6 to 38.4, over the edge at 32
    assert made.mask is not None
    assert made.mask[0, 0].tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0] * 4]


def test_grey_marks_from_the_middle_on() -> None:
    mask = Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8))
    assert np.asarray(repaint_mask(mask, (4, 1)))[0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_white_marks_in_any_mode_without_transparency(mode) -> None:
    mask = boxed((8, 8), (2, 3, 5, 6))
    image = mask.convert("RGB").convert(mode) if mode == "CMYK" else mask.convert(mode)
    assert same(repaint_mask(image, (8, 8)), mask)


def test_white_marks_in_whole_numbers_of_32_bits() -> None:
    mask = boxed((8, 8), (2, 3, 5, 6))
    assert same(repaint_mask(Image.fromarray(np.array(mask).astype(np.int32)), (8, 8)), mask)


def test_transparency_marks_where_there_is_any_and_colours_do_not() -> None:
    mask = Image.new("RGBA", (8, 8), "white")
    mask.paste((0, 0, 0, 0), (2, 3, 5, 6))
    assert same(repaint_mask(mask, (8, 8)), boxed((8, 8), (2, 3, 5, 6)))
    assert same(repaint_mask(Image.new("RGBA", (8, 8)), (8, 8)), Image.new("L", (8, 8), 255))


def test_little_transparency_makes_no_mask() -> None:
    assert transparency_mask(Image.new("RGBA", (4, 4), (0, 0, 0, 128))) is None
    assert transparency_mask(Image.new("RGBA", (4, 4), (0, 0, 0, 127))) is not None
    with pytest.raises(SettingsError, match="marks nothing"):
        repaint_mask(Image.new("RGBA", (4, 4), (255, 255, 255, 200)), (4, 4))


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(SettingsError, match="The mask is 64x32, the image 32x64: make them equal"):
        make_source(SPEC, noise(32, 64), 1.0, mask=Image.new("L", (64, 32), 255))


def test_a_mask_has_the_size_of_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    noise(64, 32).save(file, "PNG", exif=exif)
    lying = Image.open(file)
    assert make_source(SPEC, lying, 1.0, mask=Image.new("L", (32, 64), 255)).size == (64, 32)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(SettingsError, match="The mask marks nothing: paint white"):
        masked(Image.new("L", (128, 128), 127))


def test_a_full_mask_shows_all_that_was_drawn() -> None:
    assert (fade((128, 128), (0, 0, 128, 128), feather=64) == 255).all()


# Feather


@pytest.mark.parametrize("feather", [0, 1, 8, 64])
def test_nothing_shows_outside_the_mask_and_all_of_it_deep_inside(feather) -> None:
    box = (200, 150, 400, 350)
    shown = fade((600, 500), box, feather=feather)
    inside = np.asarray(boxed((600, 500), box)) > 0
    assert not shown[~inside].any()
    assert shown[inside].min() > 0
    row = shown[250, 200:300].astype(int)
    assert (row[feather:] == 255).all()
    assert (np.diff(row[: feather + 1]) > 0).all()
    assert np.array_equal(shown[150:350, 300], shown[250, 200:400])  # alike on all four sides
    assert np.array_equal(shown, shown[::-1]) == np.array_equal(inside, inside[::-1])


def test_no_edge_fades_at_the_border_of_the_picture() -> None:
    shown = fade((256, 128), (128, 0, 256, 128), feather=16)
    assert (shown[:, 128 + 16 :] == 255).all()
    assert shown[64, 128] < 20


@pytest.mark.parametrize("width", [1, 2, 5, 8, 12])
@pytest.mark.parametrize("feather", [1, 8, 64])
def test_parts_thinner_than_the_feather_do_not_vanish(feather, width) -> None:
    shown = fade((200, 100), (40, 20, 40 + width, 80), (120, 20, 180, 80), feather=feather)
    assert shown[50, 40 : 40 + width].max() == 255
    assert shown[50, 120:180].max() == 255
    assert shown.max(axis=1)[20:80].min() > 0
    assert not shown[:, 40 + width : 120].any()


def test_the_feather_of_a_large_part_leaves_a_small_one_nearby_alone() -> None:
    shown = fade((200, 100), (10, 10, 14, 90), (16, 10, 190, 90), feather=16)
    assert shown[50, 10:14].max() == 255


@pytest.mark.parametrize("feather", [-1, 65, 1.5, None, True])
def test_a_feather_out_of_range_is_refused(feather) -> None:
    with pytest.raises(SettingsError, match=r"feather = .* from 0 to 64"):
        make_source(SPEC, noise(64, 64), 1.0, mask=Image.new("L", (64, 64), 255), feather=feather)


def test_outside_the_mask_every_pixel_is_the_pictures_own() -> None:
    for size in ((128, 128), (77, 131), (640, 360)):
        image, drawn = noise(*size), noise(1024, 32).resize((128, 128))
        mask = boxed(size, (10, 20, 60, 70))
        made = make_source(SPEC, image, 1.0, mask=mask, feather=FEATHER)
        result = np.asarray(made.finish(drawn.resize((made.pixels.shape[3], made.pixels.shape[2]))))
        kept = np.asarray(mask) == 0
        assert np.array_equal(result[kept], np.asarray(image)[kept])
        assert (result[~kept] != np.asarray(image)[~kept]).mean() > 0.5
