"""Enlarging by Lanczos, and what a drawing may change of it: detail alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.pipelines.upscale.lanczos import LANCZOS, checked_factor, enlarged_size, with_detail

NOISE = np.random.default_rng(0)


def smooth(side: int, spread: float = 40.0) -> np.ndarray:
    """Waves of a few periods, far from black and white."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((1, 2), (3, 1), (2, 3))]
    return 128 + spread * np.stack(waves, axis=-1)


def image_of(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def levels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_what_is_drawn_larger_or_lighter_is_not_taken() -> None:
    """A drawing of other colours, without detail, changes nothing: the result is the enlarged image."""
    image, plain = image_of(smooth(32)), image_of(smooth(64, 20.0) + 30)
    difference = levels_of(with_detail(image, plain)) - levels_of(image.resize((64, 64), LANCZOS))
    assert np.abs(difference).max() <= 3


def test_detail_is_taken_whole() -> None:
    """A fine checkerboard, which vanishes when it is scaled down, is in the result."""
    image = image_of(smooth(32))
    board = 20 * ((np.indices((64, 64)).sum(axis=0) % 2) * 2 - 1)[..., None]
    found = levels_of(with_detail(image, image_of(smooth(64) + board))) - levels_of(
        image.resize((64, 64), LANCZOS)
    )
    assert np.abs(found - board)[4:-4, 4:-4].max() <= 3


def test_the_result_scaled_down_is_the_image() -> None:
    """Whatever was drawn, here noise on the wrong ground: to 1.5 levels on average, against over 40."""
    image = image_of(smooth(32))
    drawn = image_of(255 - smooth(64) + NOISE.normal(0, 8, (64, 64, 3)))
    again = levels_of(with_detail(image, drawn).resize(image.size, LANCZOS))
    assert np.abs(levels_of(drawn.resize(image.size, LANCZOS)) - levels_of(image)).mean() > 40
    assert np.abs(again - levels_of(image)).mean() < 1.5


def test_black_and_white_stay_within_their_ends() -> None:
    image = Image.new("RGB", (16, 16), "white")
    board = 127 + 127 * ((np.indices((32, 32)).sum(axis=0) % 2) * 2 - 1)[..., None].repeat(3, axis=2)
    found = levels_of(with_detail(image, image_of(board)))
    assert found.max() == 255
    assert found.min() > 100  # not wrapped around


@pytest.mark.parametrize("factor", [1, 0.5, 8.1, float("nan"), "2", True, None])
def test_other_factors_are_refused(factor: object) -> None:
    with pytest.raises(SettingsError, match="above 1 and up to 8"):
        checked_factor(factor)  # pyright: ignore[reportArgumentType]


def test_a_size_is_rounded_and_limited() -> None:
    assert enlarged_size((33, 20), checked_factor(np.float32(1.5))) == (50, 30)
    with pytest.raises(SettingsError, match="9600x9600 px would be made"):
        enlarged_size((1200, 1200), 8)
