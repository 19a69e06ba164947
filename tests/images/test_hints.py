"""Hints: edges against scikit-image's, the published post-processing against its rules, and their form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sanakit.errors import SettingsError
from sanakit.images import hints
from sanakit.images.hints import HINT_KINDS, colour_blocks, edges, lines, make_hint, soft_edges


def scene(width: int = 96, height: int = 80) -> Image.Image:
    """Shapes of several colours on a soft ground, with a little noise."""
    generator = np.random.default_rng(3)
    ground = generator.integers(60, 190, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(ground).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 12, 50, 52), fill=(250, 240, 30))
    draw.rectangle((40, 40, 80, 70), fill=(20, 30, 160))
    draw.polygon([(60, 5), (90, 30), (70, 35)], fill=(200, 20, 20))
    noisy = np.asarray(image) + generator.normal(0, 4, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"), dtype=np.float64) / 255


@pytest.mark.parametrize("sigma", [0.8, 1.4, 2.5])
@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (0.15, 0.4), (0.3, 0.3)])
def test_edges_equal_those_of_scikit_image(sigma, low, high):
    from skimage.feature import canny

    for image in (scene(), scene(37, 120), scene().rotate(30)):
        values = grey(image)
        expected = canny(values, sigma=sigma, low_threshold=low, high_threshold=high, mode="nearest")
        assert 20 < expected.sum() < expected.size / 2
        assert (edges(values, sigma=sigma, low=low, high=high) != expected).mean() <= 1e-3  # ties


def test_edges_reach_as_far_as_they_are_connected():
    """A ridge that winds on for longer than the image is wide, and begins at one strong pixel."""
    where = np.zeros((9, 40), dtype=bool)
    for row in range(0, 9, 2):
        where[row] = True
    for row in range(1, 9, 2):
        where[row, -1 if row % 4 == 1 else 0] = True
    seeds = np.zeros_like(where)
    seeds[0, 0] = True
    assert np.array_equal(hints._connected(where, seeds), where)
    where[3, 0] = False  # cut
    assert hints._connected(where, seeds)[:3].sum() == where[:3].sum()
    assert not hints._connected(where, seeds)[4:].any()
    assert not hints._connected(where, np.zeros_like(where)).any()


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("kind", ["edges", "lines", "soft-edges"])
def test_a_flat_image_has_no_edges(kind, level):
    flat = Image.new("RGB", (64, 48), (level,) * 3)
    assert np.asarray(make_hint(flat, kind)).max() == 0


def test_lines_are_the_edges_five_pixels_wide():
    """Where an edge lies within two pixels, diagonally too, and nowhere else."""
    found = edges(grey(scene()))
    near = np.zeros_like(found)
    for y, x in zip(*np.nonzero(found), strict=True):
        near[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    assert 0 < found.sum() < near.sum() < near.size
    assert np.array_equal(lines(grey(scene())), near)
    assert np.array_equal(lines(grey(scene()), width=1), found)


def test_soft_edges_follow_the_outlines_and_grow_with_their_thickness():
    image = Image.new("L", (120, 100), 30)
    ImageDraw.Draw(image).rectangle((40, 30, 80, 70), fill=220)
    shares = [soft_edges(grey(image), thickness=thickness).mean() for thickness in (0, 1, 2, 8, 24)]
    assert shares[1] == shares[2]  # published: a square of 2 // 2 pixels changes nothing
    assert shares[0] < shares[1] < shares[3] < shares[4] < 0.9
    soft = soft_edges(grey(image))
    assert soft[50, 36:44].any()
    assert soft[30, 60]
    assert not soft[:15].any()
    assert not soft[46:55, 56:65].any()


def test_ridges_and_squares_are_those_of_opencv():
    """Dilation by line kernels and by squares, written out pixel by pixel."""
    values = torch.rand(9, 11, dtype=torch.float64)
    kernels = [((0, -1), (0, 0), (0, 1)), ((-1, 0), (0, 0), (1, 0))]
    kernels += [((-1, -1), (0, 0), (1, 1)), ((-1, 1), (0, 0), (1, -1))]

    def dilated(y: int, x: int, kernel) -> float:
        places = [(y + dy, x + dx) for dy, dx in kernel]
        return max(values[a, b].item() for a, b in places if 0 <= a < 9 and 0 <= b < 11)

    ridges, squares = hints._is_ridge(values), hints._largest(values, 4)
    square = [(dy, dx) for dy in range(-2, 2) for dx in range(-2, 2)]  # anchored at 4 // 2
    for y in range(9):
        for x in range(11):
            assert ridges[y, x] == any(dilated(y, x, kernel) == values[y, x] for kernel in kernels)
            assert squares[y, x] == dilated(y, x, square)


def test_blocks_have_the_mean_colours():
    image = scene(96, 64)
    blocks = np.asarray(colour_blocks(image, 32))
    pixels = np.asarray(image).astype(float)
    for y in range(0, 64, 32):
        for x in range(0, 96, 32):
            block = blocks[y : y + 32, x : x + 32].reshape(-1, 3)
            assert (block == block[0]).all()
            assert np.abs(block[0] - pixels[y : y + 32, x : x + 32].mean((0, 1))).max() <= 1


@pytest.mark.parametrize("kind", HINT_KINDS)
@pytest.mark.parametrize("size", [(64, 64), (37, 91), (1, 5)])
def test_a_hint_is_rgb_of_the_images_size(kind, size):
    hint = make_hint(scene().resize(size), kind)
    assert (hint.mode, hint.size) == ("RGB", size)
    if kind not in ("as-is", "blocks"):
        assert set(np.unique(np.asarray(hint))) <= {0, 255}


def test_as_is_changes_nothing_and_a_mask_is_white_where_it_is_light():
    image = scene()
    assert make_hint(image, "as-is") is image
    assert np.array_equal(np.asarray(make_hint(image, "mask"))[..., 0] > 0, grey(image) >= 0.5)


def test_another_kind_is_refused_with_those_there_are():
    with pytest.raises(
        SettingsError, match="'depth', but it must be as-is, edges, lines, soft-edges, blocks, mask"
    ):
        make_hint(scene(), "depth")  # pyright: ignore[reportArgumentType]
