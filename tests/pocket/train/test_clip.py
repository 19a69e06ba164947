"""The pairs of pocket-clip: right captions, captions wrong in one point, images that keep the thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sanakit.pocket.data.dataset import PocketImages, PocketRow
from sanakit.pocket.data.palette import COLOURS
from sanakit.pocket.data.scenes import KINDS, Scene, Scenes, is_held_out
from sanakit.pocket.train.clip import PocketPairs, augment, held_out_pairs, wrong_captions
from sanakit.pocket.words.captions import STYLES, captions_of
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.scene_words import scene_captions
from sanakit.train.objectives.contrastive import Pair

THINGS = ("red apple", "fox", "key", "tent", "banana", "lemon")
OPPOSITES = {"left": ("left", "right"), "above": ("above", "below"), "size": ("big", "small")}


@pytest.fixture(scope="module")
def pocket() -> PocketImages:
    """Six things in all styles, each a square of its own gray."""
    alpha = np.zeros((256, 256), np.uint8)
    alpha[50:200, 50:200] = 255
    images, rows = [], []
    for style in STYLES:
        for i, concept in enumerate(THINGS):
            images.append(np.where(alpha[..., None] > 0, np.uint8(30 * i), np.uint8(255)).repeat(3, axis=2))
            texts = dict.fromkeys(("name", "hex", "style_tag", "licence", "source"), "")
            rows.append(
                PocketRow(
                    concept=concept,
                    style=style.name,
                    captions=captions_of(concept, [], style),
                    split="train",
                    group="things",
                    subgroup="food" if i in (0, 4, 5) else "other",
                    **texts,
                )
            )
    return PocketImages(np.stack(images), np.stack([alpha] * len(rows)), rows, {})


def scenes_of(pocket: PocketImages, kind: str) -> list[Scene]:
    scenes = Scenes(pocket, 40, kinds=[kind])
    return [scenes.scene(i) for i in range(40)]


def true_words(scene: Scene) -> set[str]:
    """All captions that are true of a scene, of the style it is in."""
    style = next(style for style in STYLES if style.name == scene.style)
    concepts = [thing.concept for thing in scene.objects]
    true = {*scene.captions}
    if scene.kind == "two":
        true |= {*scene_captions("two", concepts[::-1], scene.ground, scene.colour, style)}
    return true


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_captions_are_wrong_and_told_in_the_words_of_the_right_one(pocket, kind):
    for i, scene in enumerate(scenes_of(pocket, kind)):
        for which, right in enumerate(scene.captions):
            wrong = wrong_captions(scene, which, np.random.default_rng(i))
            assert len({right, *wrong}) == 3
            assert not true_words(scene).intersection(wrong)
            style = next(style for style in STYLES if style.name == scene.style)
            for named in (style.long, style.suffix, style.short):
                assert all((named in text) == (named in right) for text in wrong)


@pytest.mark.parametrize("kind", OPPOSITES)
def test_the_telling_caption_exchanges_the_two_things(pocket, kind):
    for i, scene in enumerate(scenes_of(pocket, kind)):
        telling = wrong_captions(scene, 0, np.random.default_rng(i))[0]
        assert sorted(telling.replace("an ", "a ").split()) == sorted(
            scene.captions[0].replace("an ", "a ").split()
        )
        assert telling != scene.captions[0]


def test_the_telling_caption_of_a_count_names_another_number(pocket):
    for i, scene in enumerate(scenes_of(pocket, "count")):
        right, telling = scene.captions[0], wrong_captions(scene, 0, np.random.default_rng(i))[0]
        assert right.split()[1:] == telling.split()[1:]
        assert {right.split()[0], telling.split()[0]} <= {"two", "three", "four"}
        assert right != telling


def test_a_pair_is_the_same_for_the_same_random_state(pocket):
    draw = PocketPairs(pocket, 64)
    first, again = (draw(np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert replace(first, image=again.image) == again


def test_half_of_the_pairs_are_scenes_and_training_never_shows_a_held_out_one(pocket, monkeypatch):
    draw = PocketPairs(pocket, 64)
    shown: list[Scene] = []
    compose = draw.scenes.compose
    monkeypatch.setattr(draw.scenes, "compose", lambda scene: shown.append(scene) or compose(scene))
    pairs = [draw(np.random.default_rng((0, i))) for i in range(200)]
    assert 70 < sum(pair.kind != "single" for pair in pairs) < 130
    assert len(shown) == sum(pair.kind != "single" for pair in pairs)
    assert not any(is_held_out(scene) for scene in shown)
    assert {pair.image.shape for pair in pairs} == {(64, 64, 3)}


def test_a_single_picture_has_wrong_words_of_its_sort_and_of_its_style(pocket):
    draw = PocketPairs(pocket, 64, scene_share=0.0)
    tags = [style.long for style in STYLES]
    styled = 0
    for i in range(80):
        pair = draw(np.random.default_rng((1, i)))
        (concept,) = pair.things
        assert pair.caption in {text for style in STYLES for text in captions_of(concept, [], style)}
        assert not {text for text in captions_of(concept, [], STYLES[0])}.intersection(pair.wrong[:1])
        if any(tag in pair.caption for tag in tags):
            styled += 1
            own = next(tag for tag in tags if tag in pair.caption)
            assert pair.wrong[1].endswith(pair.caption.removeprefix(own))
            assert own not in pair.wrong[1]
    assert styled > 5


def test_held_out_pairs_are_whole_pictures_of_all_kinds(pocket):
    pairs = held_out_pairs(pocket, 300)
    missing = {*KINDS, "single"} - {pair.kind for pair in pairs}
    assert missing <= {"count"}  # of 18 combinations with so few things, none may be held out
    assert all(isinstance(pair, Pair) and pair.image.shape == (256, 256, 3) for pair in pairs)
    assert all(pair.things <= COMMON_CONCEPTS.keys() for pair in pairs)


def test_augmenting_keeps_the_thing_and_its_side(pocket):
    picture = np.full((256, 256, 3), COLOURS["white"], np.uint8)
    picture[:, :128] = COLOURS["blue"]
    for i in range(30):
        for mirror in (False, True):
            changed = augment(picture, np.random.default_rng(i), 64, mirror=mirror).astype(int)
            redness = changed[:, :, 0].mean(0)
            left, right = redness[:24].mean(), redness[-24:].mean()
            assert (left > right) == mirror
            assert changed.shape == (64, 64, 3)
