from __future__ import annotations

import numpy as np
import pytest

from sanakit.pocket.data.canvas import (
    AS_DRAWN,
    DOUBLE_SIZES,
    ON_WHITE,
    SIZES,
    TURN,
    UNTOUCHED,
    Placement,
    compose,
    draw_placement,
)
from sanakit.pocket.data.palette import COLOURS

SIDE = 256


def thing(opacity: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """A red block, taller than wide, left of the middle, on white; and how opaque it is."""
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[40:220, 30:120] = opacity
    part = alpha[..., None] / 255
    return (np.array([200, 20, 20]) * part + 255 * (1 - part)).round().astype(np.uint8), alpha


def shown(picture: np.ndarray, ground: str = "white") -> np.ndarray:
    return np.abs(picture.astype(int) - COLOURS[ground]).sum(-1) > 60


@pytest.mark.parametrize("size", [*SIZES, *DOUBLE_SIZES])
def test_canvases_have_the_asked_size_and_whole_autoencoder_cells(size: tuple[int, int]):
    picture = compose(*thing(), *size, Placement(turn=5, scale=0.8))
    assert picture.shape == (size[1], size[0], 3)
    assert picture.dtype == np.uint8
    assert size[0] % 32 == size[1] % 32 == 0


def test_a_thing_as_drawn_on_its_own_size_is_not_touched():
    image, alpha = thing()
    assert (compose(image, alpha, SIDE, SIDE, AS_DRAWN) == image).all()


@pytest.mark.parametrize("ground", ["red", "light blue", "black"])
def test_the_ground_shines_through_in_the_exact_measure(ground: str):
    image, alpha = thing(opacity=100)
    picture = compose(image, alpha, SIDE, SIDE, Placement(ground=ground)).astype(float)
    part = alpha[..., None] / 255
    exact = image.astype(float) - 255 * (1 - part) + (1 - part) * np.array(COLOURS[ground])
    assert np.abs(picture - exact).max() <= 1.5


def test_a_flip_mirrors():
    image, alpha = thing()
    flipped = compose(image, alpha, SIDE, SIDE, Placement(flip=True))
    assert (flipped == image[:, ::-1]).all()


@pytest.mark.parametrize("seed", range(40))
def test_things_stay_whole_wherever_they_stand(seed: int):
    random = np.random.default_rng(seed)
    width, height = SIZES[seed % len(SIZES)]
    place = draw_placement(random, untouched=0)
    image, alpha = thing()
    picture = compose(image, alpha, width, height, place)
    area = shown(picture, place.ground).sum() if place.ground != "red" else None
    expected = (alpha > 0).sum() * (place.scale * min(width, height) / SIDE) ** 2
    assert area is None or abs(area / expected - 1) < 0.06


def test_a_turn_is_counter_clockwise_and_keeps_the_middle():
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[120:136, 40:216] = 255  # a bar
    image = np.repeat(255 - alpha[..., None], 3, 2)
    mask = shown(compose(image, alpha, SIDE, SIDE, Placement(turn=10)))
    y, x = np.nonzero(mask)
    assert abs(x.mean() - 127.5) < 1.5
    assert abs(y.mean() - 127.5) < 1.5
    assert y[x > 200].mean() < y[x < 56].mean()  # the right end is up


def test_places_reach_the_edges_of_the_canvas():
    image, alpha = thing()
    for x, edge in ((0.0, 0), (1.0, -1)):
        mask = shown(compose(image, alpha, 352, 192, Placement(scale=0.6, x=x)))
        columns = np.flatnonzero(mask.any(0))
        assert abs(columns[edge] - (0 if edge == 0 else 351)) <= 2


def test_an_empty_thing_gives_the_ground():
    white, nothing = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64), np.uint8)
    assert (compose(white, nothing, 96, 64, Placement(ground="green", turn=3)) == COLOURS["green"]).all()


def test_draws_keep_their_shares_and_bounds():
    random = np.random.default_rng(0)
    draws = [draw_placement(random) for _ in range(3000)]
    assert abs(sum(place == AS_DRAWN for place in draws) / 3000 - UNTOUCHED) < 0.03
    moved = [place for place in draws if place != AS_DRAWN]
    assert abs(sum(place.ground == "white" for place in moved) / len(moved) - ON_WHITE) < 0.03
    assert max(abs(place.turn) for place in moved) <= TURN
    assert all(0.6 <= place.scale <= 1 for place in moved)
