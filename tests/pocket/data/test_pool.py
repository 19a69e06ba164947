"""Samples, their images and their words; pools of latents that know what they were made of."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import DataError
from sanakit.images.hints import make_hint
from sanakit.models.dc_ae import DC_AE_POCKET, DCAE
from sanakit.pocket.data.canvas import AS_DRAWN
from sanakit.pocket.data.dataset import PocketImages, join, open_pocket
from sanakit.pocket.data.pool import Pool, build_hints, build_pool, open_pool
from sanakit.pocket.data.samples import SHARES, PocketSample, draw_chances, list_samples, render
from sanakit.pocket.data.scenes import Scenes
from sanakit.pocket.data.toy import build_toy
from sanakit.pocket.data.wording import Wording
from sanakit.pocket.train.feed import PocketFeed
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.train.parts import Part


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> PocketImages:
    return open_pocket(build_toy(tmp_path_factory.mktemp("toy") / "pocket"))


@pytest.fixture(scope="module")
def scenes(pocket: PocketImages) -> Scenes:
    return Scenes(pocket, 20)


@pytest.fixture(scope="module")
def codec() -> DCAE:
    torch.manual_seed(0)
    return DCAE(DC_AE_POCKET).eval()


@pytest.fixture(scope="module")
def some(pocket: PocketImages) -> list[PocketSample]:
    """A few samples of each kind."""
    samples, found = [], Counter()
    for sample in list_samples(pocket, 20):
        found[sample.kind] += 1
        if found[sample.kind] <= 3:
            samples.append(sample)
    return samples


@pytest.fixture(scope="module")
def pool(some, pocket, scenes, codec, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return build_pool(tmp_path_factory.mktemp("pool"), some, pocket, scenes, codec)


def test_the_list_holds_every_kind_and_is_always_the_same(pocket: PocketImages):
    samples = list_samples(pocket, 20)
    assert {sample.kind for sample in samples} == SHARES.keys()
    assert samples == list_samples(pocket, 20)
    held_out = {i for i, row in enumerate(pocket.rows) if row.split == "val"}
    assert held_out
    assert not held_out & {sample.row for sample in samples}


def test_kinds_are_drawn_by_their_shares(pocket: PocketImages):
    samples = list_samples(pocket, 20)
    chances = draw_chances(samples)
    assert chances.sum() == pytest.approx(1)
    for kind, share in SHARES.items():
        own = sum(c for c, sample in zip(chances, samples, strict=True) if sample.kind == kind)
        assert own == pytest.approx(share / sum(SHARES.values()))


def test_a_sample_as_it_was_drawn_is_the_picture_itself(pocket: PocketImages, scenes: Scenes):
    plain = next(s for s in list_samples(pocket, 1) if s.kind == "drawn" and s.placement == AS_DRAWN)
    np.testing.assert_array_equal(render(plain, pocket, scenes), pocket.images[plain.row])


def test_a_mirrored_sample_is_the_mirrored_picture(pocket: PocketImages, scenes: Scenes):
    mirrored = next(s for s in list_samples(pocket, 1) if s.kind == "mirrored")
    expected = np.asarray(pocket.images[mirrored.row])[:, ::-1]
    given = render(mirrored, pocket, scenes).astype(int)
    assert np.abs(given - expected).mean() < 1


def test_a_pool_holds_the_latents_of_its_pictures(pool: Pool, pocket, scenes, codec):
    """Encoded one by one, not in the pool's batches; float16's rounding."""
    for size, indices in pool.indices.items():
        for place, index in enumerate(indices[:2]):
            picture = torch.from_numpy(render(pool.samples[index], pocket, scenes).copy())
            pixels = picture.permute(2, 0, 1)[None].float() / 127.5 - 1
            assert pixels.shape[2:] == (size[1], size[0])
            with torch.no_grad():
                expected = codec.encode(pixels)[0]
            given = torch.from_numpy(pool.latents[size][place].astype(np.float32))
            torch.testing.assert_close(given, expected, atol=5e-3, rtol=5e-3)


def test_hints_lie_beside_the_latents_that_they_belong_to(some, pocket, scenes, codec, tmp_path: Path):
    """Encoded one by one, not in batches; float16's rounding. A second call only opens them."""
    pool = build_pool(tmp_path, some[:4], pocket, scenes, codec)
    hints = build_hints(tmp_path, pool, pocket, scenes, codec, "lines")
    assert hints.keys() == pool.latents.keys()
    for size, indices in pool.indices.items():
        for place, index in enumerate(indices):
            image = Image.fromarray(render(pool.samples[index], pocket, scenes))
            hint = torch.from_numpy(np.array(make_hint(image, "lines"))).permute(2, 0, 1)[None]
            with torch.no_grad():
                expected = codec.encode(hint.float() / 127.5 - 1)[0]
            given = torch.from_numpy(hints[size][place].astype(np.float32))
            torch.testing.assert_close(given, expected, atol=5e-3, rtol=5e-3)
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    build_hints(tmp_path, pool, pocket, scenes, codec, "lines")
    assert stamps == {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}


def test_hints_drawn_in_another_way_are_encoded_again(
    some, pocket, scenes, codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pool = build_pool(tmp_path, some[:2], pocket, scenes, codec)
    before = build_hints(tmp_path, pool, pocket, scenes, codec, "lines")
    monkeypatch.setattr("sanakit.pocket.data.pool.make_hint", lambda image, kind: make_hint(image, "edges"))
    after = build_hints(tmp_path, pool, pocket, scenes, codec, "lines")
    for size in before:
        assert not np.array_equal(before[size], after[size])


def test_an_opened_pool_is_the_one_that_was_built(some, pocket, scenes, codec, tmp_path: Path):
    built = build_pool(tmp_path, some[:4], pocket, scenes, codec)
    opened = open_pool(tmp_path)
    assert opened.samples == built.samples == some[:4]
    assert opened.indices == built.indices
    stamp = (tmp_path / "pool.json").stat().st_mtime_ns
    build_pool(tmp_path, some[:4], pocket, scenes, codec)  # only opened
    assert (tmp_path / "pool.json").stat().st_mtime_ns == stamp


def test_a_pool_of_something_else_is_refused(some, pocket, scenes, codec, tmp_path: Path):
    build_pool(tmp_path, some[:2], pocket, scenes, codec)
    with pytest.raises(DataError, match="another folder"):
        build_pool(tmp_path, some[:3], pocket, scenes, codec)
    other = copy.deepcopy(codec)
    next(other.encoder.parameters()).data[0] += 1e-3
    with pytest.raises(DataError, match="another folder"):
        build_pool(tmp_path, some[:2], pocket, scenes, other)
    with pytest.raises(DataError, match="no finished pool"):
        open_pool(tmp_path / "none")


def test_a_pool_of_another_data_set_is_refused(some, pocket, scenes, codec, tmp_path: Path):
    build_pool(tmp_path, some[:2], pocket, scenes, codec)
    renamed = [replace(row, source="another package") for row in pocket.rows]
    with pytest.raises(DataError, match="another folder"):
        build_pool(tmp_path, some[:2], replace(pocket, rows=renamed), scenes, codec)


def test_a_half_made_pool_goes_on_only_with_what_it_was_begun_with(
    some, pocket, scenes, codec, tmp_path: Path
):
    begun = build_pool(tmp_path, some, pocket, scenes, codec)
    (tmp_path / "pool.json").unlink()  # as a killed build leaves it
    size = next(iter(begun.indices))
    (tmp_path / f"{size[0]}x{size[1]}.npy").unlink()
    with pytest.raises(DataError, match="another folder"):
        build_pool(tmp_path, some[1:], pocket, scenes, codec)
    again = build_pool(tmp_path, some, pocket, scenes, codec)
    for size, latents in begun.latents.items():
        np.testing.assert_array_equal(again.latents[size], latents)


def test_joined_sets_keep_what_belongs_together(pocket: PocketImages):
    both = join(pocket, pocket)
    count = len(pocket.rows)
    assert len(both.rows) == len(both.images) == 2 * count
    np.testing.assert_array_equal(both.images[count + 3], pocket.images[3])
    np.testing.assert_array_equal(both.alpha[count - 1], pocket.alpha[count - 1])


def test_a_feed_gives_the_same_samples_in_whole_and_in_parts(pool: Pool, pocket, scenes):
    feed = PocketFeed(pool, pocket.rows, scenes, Wording({}), scale=0.5)
    sizes = set()
    for step in range(30):
        whole = feed.shown(step, Part(0, 6, 6))
        parts = [feed.shown(step, Part(start, start + 3, 6)) for start in (0, 3)]
        assert whole.captions == [*parts[0].captions, *parts[1].captions]
        torch.testing.assert_close(whole.latents, torch.cat([part.latents for part in parts]))
        sizes.add(tuple(whole.latents.shape[2:]))
    assert len(sizes) > 1


def test_words_name_the_colour_and_the_ground_of_a_sample(pocket: PocketImages):
    wording = Wording({})
    row = next(i for i, row in enumerate(pocket.rows) if row.concept == "penguin")
    painted = PocketSample(kind="painted", weight=1, row=row, colour="purple")
    on_ground = PocketSample(kind="varied", weight=1, row=row, placement=replace(AS_DRAWN, ground="green"))
    random = np.random.default_rng(0)
    for _ in range(40):
        assert "purple" in wording.single(painted, pocket.rows[row], random).lower()
    said = [wording.single(on_ground, pocket.rows[row], random).lower() for _ in range(200)]
    assert 0.75 < np.mean(["green" in words for words in said]) < 0.95


def test_other_languages_are_used_where_they_are_known(pocket: PocketImages):
    concept = next(iter(COMMON_CONCEPTS))
    row = replace(pocket.rows[0], concept=concept)
    random = np.random.default_rng(0)
    wording = Wording({concept: ["Hundegesicht"]})
    said = [wording.single(PocketSample(kind="drawn", weight=1, row=0), row, random) for _ in range(400)]
    assert 0.05 < np.mean(["Hundegesicht" in words for words in said]) < 0.16


def test_words_of_a_scene_say_who_stands_where(scenes: Scenes):
    wording, random = Wording({}), np.random.default_rng(0)
    checked = 0
    for i in range(len(scenes)):
        scene = scenes.scene(i)
        if scene.kind != "left":
            continue
        first, second = (COMMON_CONCEPTS[thing.concept].split()[-1] for thing in scene.objects)
        for _ in range(20):
            said = wording.scene(scene, random)
            wrong = (f"{first} to the right of", f"{second} to the left of", f"on the right a {first}")
            assert not any(words in said for words in wrong), said
            checked += first in said and second in said
    assert checked
