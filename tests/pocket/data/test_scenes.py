from __future__ import annotations

import numpy as np
import pytest

from sanakit.errors import DataError
from sanakit.pocket.data import scenes as module
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.data.palette import COLOURS
from sanakit.pocket.data.scenes import KINDS, Scene, Scenes, is_held_out
from sanakit.pocket.words import scene_words
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.scene_words import SCENE_CONCEPTS, plural

THINGS = {"red apple": (200, 0, 0), "fox": (255, 120, 0), "key": (90, 90, 0), "tent": (0, 90, 90)}


@pytest.fixture(scope="module")
def pocket(discs) -> PocketImages:
    return discs(THINGS, 100)


def colour_at(picture: np.ndarray, x: int, y: int) -> tuple[int, ...]:
    return tuple(picture[y, x].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_shows_what_its_objects_say(pocket: PocketImages, kind: str):
    scenes = Scenes(pocket, 12, kinds=[kind])
    for index, picture in enumerate(scenes):
        scene = scenes.scene(index)
        ground = COLOURS[scene.ground]
        assert colour_at(picture, 255, 0) == ground
        for thing in scene.objects:
            wanted = THINGS[thing.concept] if scene.colour is None else COLOURS[scene.colour]
            assert colour_at(picture, thing.x + thing.side // 2, thing.y + thing.side // 2) == wanted
        shown = np.abs(picture.astype(int) - ground).sum(-1) > 0
        area = sum(np.pi * (100 / 256 * thing.side) ** 2 for thing in scene.objects)
        assert abs(shown.sum() / area - 1) < 0.06  # and nothing else


def test_things_are_where_the_caption_puts_them(pocket: PocketImages):
    for kind, axis in (("left", "x"), ("above", "y")):
        scenes = Scenes(pocket, 20, kinds=[kind])
        for i in range(20):
            first, second = scenes.scene(i).objects
            assert getattr(first, axis) < getattr(second, axis)
            names = [COMMON_CONCEPTS[thing.concept] for thing in (first, second)]
            assert (
                scenes.scene(i)
                .captions[0]
                .startswith(f"{names[0]} {'above' if axis == 'y' else 'to the left of'} {names[1]}")
            )


def test_the_big_thing_is_the_big_one_and_numbers_are_counted(pocket: PocketImages):
    scenes = Scenes(pocket, 20, kinds=["size"])
    assert all(a.side > b.side for a, b in (scenes.scene(i).objects for i in range(20)))
    scenes = Scenes(pocket, 20, kinds=["count"])
    for i in range(20):
        word = scene_words.NUMBERS[len(scenes.scene(i).objects)]
        assert scenes.scene(i).captions[0].startswith(f"{word} ")


def test_no_two_things_touch_and_all_lie_on_the_grid(pocket: PocketImages):
    scenes = Scenes(pocket, 60)
    for i in range(60):
        covered = np.zeros((256, 256), int)
        for thing in scenes.scene(i).objects:
            assert thing.x % 32 == thing.y % 32 == thing.side % 32 == 0
            assert thing.x + thing.side <= 256
            assert thing.y + thing.side <= 256
            covered[thing.y : thing.y + thing.side, thing.x : thing.x + thing.side] += 1
        assert covered.max() == 1


def test_a_scene_is_the_same_each_time_and_another_with_another_seed(pocket: PocketImages):
    first, again, other = (Scenes(pocket, 30, seed=seed) for seed in (0, 0, 1))
    assert [first.scene(i) for i in range(30)] == [again.scene(29 - i) for i in range(30)][::-1]
    assert np.array_equal(first[7], again[7])
    assert sum(first.scene(i) == other.scene(i) for i in range(30)) < 5
    with pytest.raises(IndexError):
        first[30]


def test_held_out_combinations_are_never_shown_in_training(pocket: PocketImages):
    shown, kept = Scenes(pocket, 200), Scenes(pocket, 50, held_out=True)

    def combination(scene: Scene) -> tuple:
        things = frozenset(thing.concept for thing in scene.objects)
        if scene.kind == "count":
            return things, len(scene.objects)
        return (things,) if len(things) == 2 else (things, scene.colour or scene.ground)

    assert not {combination(shown.scene(i)) for i in range(200)} & {
        combination(kept.scene(i)) for i in range(50)
    }
    assert all(is_held_out(kept.scene(i)) for i in range(50))


def test_too_few_things_are_an_error_and_not_an_endless_search(pocket: PocketImages, monkeypatch):
    monkeypatch.setattr(module, "is_held_out", lambda scene: False)
    with pytest.raises(DataError, match="too few for held-out combination"):
        Scenes(pocket, 1, held_out=True).scene(0)


def test_things_that_a_style_lacks_are_left_out(pocket: PocketImages):
    short = PocketImages(pocket.images[1:], pocket.alpha[1:], pocket.rows[1:], {})
    scenes = Scenes(short, 40)
    assert not any(t.concept == "red apple" for i in range(40) for t in scenes.scene(i).objects)


def test_every_thing_of_scenes_is_common_and_has_a_plural():
    assert set(SCENE_CONCEPTS) <= set(COMMON_CONCEPTS)
    plurals = {concept: plural(concept) for concept in SCENE_CONCEPTS}
    assert len(set(plurals.values())) == len(SCENE_CONCEPTS)
    assert plurals["hot beverage"] == "cups of coffee"
    assert plurals["maple leaf"] == "maple leaves"
    assert plurals["tomato"] == "tomatoes"
    assert plurals["fox"] == "foxes"
    assert plurals["teddy bear"] == "teddy bears"
