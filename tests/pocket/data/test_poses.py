"""Drawings in many poses: what may be mirrored, what captions say of it, and scenes whose places stay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from sanakit.pocket.data.canvas import Placement
from sanakit.pocket.data.dataset import PocketImages, open_pocket
from sanakit.pocket.data.samples import FIRST_MIX, Mix, PocketSample, list_samples
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.data.toy import build_toy
from sanakit.pocket.data.wording import Wording, pose_of
from sanakit.pocket.recipes.stages import DOUBLE, POSES
from sanakit.pocket.words.concepts import ONE_WAY


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> PocketImages:
    """Discs and squares, of which one is called a magnifying glass that leans left."""
    made = open_pocket(build_toy(tmp_path_factory.mktemp("toy") / "pocket"))
    rows = list(made.rows)
    rows[0] = replace(rows[0], concept="magnifying glass tilted left")
    return replace(made, rows=rows)


@pytest.mark.parametrize("mix", [FIRST_MIX, POSES, DOUBLE])
def test_what_leans_left_never_comes_to_lean_right(pocket: PocketImages, mix: Mix):
    samples = [one for one in list_samples(pocket, 4, mix=mix) if one.scene < 0]
    flipped = {pocket.rows[one.row].concept for one in samples if one.placement.flip}
    assert flipped
    assert not flipped & ONE_WAY
    assert 0 in {one.row for one in samples}


def test_a_mix_says_how_far_copies_are_turned_and_how_many_there_are(pocket: PocketImages):
    mix = replace(POSES, varied=6, turn=30.0, scales=(0.4, 0.5))
    samples = [one for one in list_samples(pocket, 4, mix=mix) if one.kind == "varied"]
    counts = Counter(one.row for one in samples)
    assert set(counts.values()) == {6}
    turns = [abs(one.placement.turn) for one in samples]
    assert 12 < max(turns) <= 30
    assert all(0.4 <= one.placement.scale <= 0.5 for one in samples)
    assert {one.size for one in list_samples(pocket, 4, mix=mix)} == {(256, 256)}


def test_designs_without_weight_are_left_out(pocket: PocketImages):
    samples = list_samples(pocket, 0, mix=replace(POSES, designs={"noto": 1.0}))
    assert {pocket.rows[one.row].style for one in samples} == {"noto"}


def test_a_pose_has_a_word_where_it_shows():
    assert pose_of(Placement()) == ""
    assert pose_of(Placement(turn=-15.0, scale=0.6)) == "tilted"
    assert pose_of(Placement(scale=0.6, flip=True)) == "small"
    assert pose_of(Placement(flip=True)) == "mirrored"
    assert pose_of(Placement(turn=3.0, scale=0.9)) == ""


def test_captions_say_the_pose_as_often_as_the_mix_says(pocket: PocketImages):
    row = next(i for i, row in enumerate(pocket.rows) if row.concept == "penguin")
    turned = PocketSample(kind="varied", weight=1, row=row, placement=Placement(turn=18.0))
    random = np.random.default_rng(0)

    def said(mix: Mix) -> float:
        words = [Wording({}, mix).single(turned, pocket.rows[row], random) for _ in range(400)]
        return float(np.mean(["tilted" in one.lower() for one in words]))

    assert said(FIRST_MIX) == 0
    assert 0.2 < said(replace(FIRST_MIX, posed=0.3)) < 0.4


def test_mirrored_things_of_a_scene_keep_their_places_and_words(pocket: PocketImages):
    plain, mirrored = Scenes(pocket, 40), Scenes(pocket, 40, mirrored=0.5)
    flips = []
    for i in range(40):
        one, other = plain.scene(i), mirrored.scene(i)
        assert other.captions == one.captions
        assert tuple(replace(thing, flip=False) for thing in other.objects) == one.objects
        flips += [thing.flip for thing in other.objects]
        alike = {}
        for thing in other.objects:
            assert alike.setdefault(thing.concept, thing.flip) == thing.flip
        thing = other.objects[0]
        own = (slice(thing.y, thing.y + thing.side), slice(thing.x, thing.x + thing.side))
        expected = plain[i][own][:, ::-1] if thing.flip else plain[i][own]
        np.testing.assert_array_equal(mirrored[i][own], expected)
    assert 0.25 < np.mean(flips) < 0.75


def test_a_scene_of_drawings_twice_as_large_is_twice_as_large(pocket: PocketImages):
    large = replace(
        pocket,
        images=pocket.images.repeat(2, 1).repeat(2, 2),
        alpha=pocket.alpha.repeat(2, 1).repeat(2, 2),
    )
    small, double = Scenes(pocket, 6), Scenes(large, 6)
    for i in range(6):
        assert double[i].shape == (512, 512, 3)
        middle = double[i].astype(int).reshape(256, 2, 256, 2, 3).mean((1, 3))
        assert np.abs(middle - small[i]).mean() < 1.5


@pytest.mark.parametrize("mix", [POSES, DOUBLE])
def test_shares_of_a_mix_are_a_whole(mix: Mix):
    assert sum(mix.shares.values()) == pytest.approx(1.0)
