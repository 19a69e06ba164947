from __future__ import annotations

import numpy as np
import pytest

from sanakit.pocket.data.recolour import (
    COLOUR_NAMES,
    PAINTS,
    from_oklab,
    is_paintable,
    main_colour,
    recolour,
    to_oklab,
)

SIDE = 96
Y, X = np.mgrid[:SIDE, :SIDE]


def thing(body: tuple[int, int, int], detail: tuple[int, int, int] = (10, 10, 10)):
    """A shaded disc with two small eyes, on white, and its opacity."""
    distance = np.hypot(X - SIDE / 2, Y - SIDE / 2)
    alpha = ((SIDE * 0.42 - distance).clip(0, 1) * 255).round().astype(np.uint8)
    shading = 0.8 + 0.2 * (1 - Y / SIDE)
    image = np.array(body, np.float32) * shading[..., None]
    eyes = np.minimum(np.hypot(X - 38, Y - 40), np.hypot(X - 58, Y - 40)) < 5
    image[eyes] = detail
    opacity = alpha[..., None] / 255
    return (image * opacity + 255 * (1 - opacity)).round().astype(np.uint8), alpha, eyes


ORIGINALS = {"tan": (222, 170, 120), "grey": (150, 150, 150), "white": (250, 250, 250), "dark": (60, 50, 60)}


@pytest.mark.parametrize("colour", COLOUR_NAMES)
@pytest.mark.parametrize("original", ORIGINALS)
def test_a_thing_of_any_colour_gets_the_asked_one(original: str, colour: str):
    image, alpha, _ = thing(ORIGINALS[original], (240, 200, 40) if original == "dark" else (10, 10, 10))
    painted = recolour(image, alpha, colour, np.random.default_rng(0))
    assert main_colour(painted) == colour


@pytest.mark.parametrize("colour", ["blue", "red", "yellow", "white"])
def test_eyes_stay_dark(colour: str):
    image, alpha, eyes = thing(ORIGINALS["tan"])
    assert recolour(image, alpha, colour)[eyes].mean() < 60


def test_eyes_are_seen_on_a_black_thing():
    image, alpha, eyes = thing(ORIGINALS["tan"])
    painted = recolour(image, alpha, "black")
    body = painted[60:70, 40:50].mean()
    assert abs(painted[eyes].mean() - body) > 50


def test_shading_is_kept():
    image, alpha, _ = thing(ORIGINALS["tan"])
    painted = recolour(image, alpha, "blue")
    assert painted[20, SIDE // 2].mean() > painted[75, SIDE // 2].mean() + 10


def test_the_ground_stays_white_and_the_picture_is_not_changed_in_place():
    image, alpha, _ = thing(ORIGINALS["tan"])
    before = image.copy()
    painted = recolour(image, alpha, "blue")
    assert (painted[alpha == 0] == 255).all()
    assert (image == before).all()


def test_a_white_thing_is_told_from_the_white_ground():
    image, alpha, _ = thing(ORIGINALS["tan"])
    painted = recolour(image, alpha, "white")
    edge = (alpha > 250) & (np.hypot(X - SIDE / 2, Y - SIDE / 2) > SIDE * 0.39)
    assert painted[edge].mean() < 240


def test_shades_differ_at_random_and_agree_for_one_seed():
    image, alpha, _ = thing(ORIGINALS["tan"])
    first, again, other = (recolour(image, alpha, "blue", np.random.default_rng(s)) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_an_empty_picture_stays_empty():
    white = np.full((8, 8, 3), 255, np.uint8)
    assert (recolour(white, np.zeros((8, 8), np.uint8), "red") == 255).all()
    assert main_colour(white) == "white"


def test_oklab_and_back_gives_the_same_colour():
    rgb = np.random.default_rng(0).integers(0, 256, (500, 3)).astype(np.float32)
    assert np.abs(from_oklab(to_oklab(rgb)) - rgb).max() < 1.5


@pytest.mark.parametrize("name", COLOUR_NAMES)
def test_plain_discs_have_the_colour_they_are_painted_in(name: str):
    image, _, _ = thing(PAINTS[name].rgb)
    assert main_colour(image) == name


def test_people_and_scenes_are_not_painted():
    assert is_paintable("dog", "animals & nature", "mammals")
    assert is_paintable("red apple", "food & drink", "fruit")
    assert not is_paintable("princess", "people & body", "roles & careers")
    assert not is_paintable("blue heart", "smileys & emotion", "hearts")
    assert not is_paintable("sunset", "travel & places", "other places")
