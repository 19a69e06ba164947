"""The data set of clips: rows, frames, loops, the split, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sanakit.errors import DataError, SettingsError
from sanakit.pocket.data.clips.dataset import FRAMES, ROWS, SOURCES, build_clips, clip_split, open_clips
from sanakit.pocket.data.clips.toy import HELD_OUT, LENGTH, SIDE, THINGS, build_toy_clips
from sanakit.pocket.data.toy import build_toy, is_toy
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from tests.pocket.data.clips.animations import DARK_HAND, FOX, HAND


def test_a_built_data_set_holds_each_clip_under_its_name(packages: Path, tmp_path: Path) -> None:
    built = build_clips(tmp_path / "clips", cache=packages, workers=1)
    assert [row.hex for row in built.rows] == [HAND, FOX, DARK_HAND]
    hand = built.rows[2]
    assert (hand.concept, hand.tone) == ("backhand index pointing right", "dark skin tone")
    assert hand.captions[-1] == "backhand index pointing right with dark skin tone"
    assert [(row.first, row.frames) for row in built.rows] == [(0, 4), (4, 4), (8, 4)]
    assert (built.side, built.frames.shape) == (64, (12, 64, 64, 3))
    assert tuple(built.frames[5, 20, 20]) == (255, 128, 0)
    assert [one["clips"] for one in built.sources["packages"]] == [0, 0, 2, 1]
    again = build_clips(tmp_path / "clips", cache=tmp_path / "nothing")
    assert (again.rows, again.fingerprint) == (built.rows, built.fingerprint)
    with pytest.raises(DataError, match="holds clips of 64 px"):
        build_clips(tmp_path / "clips", side=96, cache=packages)
    with pytest.raises(SettingsError, match="64 or 96 px, not 80"):
        build_clips(tmp_path / "other", side=80, cache=packages)


def test_clips_go_round(tmp_path: Path) -> None:
    clips = open_clips(build_toy_clips(tmp_path / "toy"))
    taken = clips.take(2, 20, 3, 5)
    places = [20, 23, 2, 5, 8]
    assert np.array_equal(taken, np.stack([clips.frames[2 * LENGTH + place] for place in places]))


def test_the_split_holds_out_concepts_that_are_not_common() -> None:
    assert {clip_split(concept) for concept in COMMON_CONCEPTS} == {"train"}
    others = [f"thing {number}" for number in range(2000)]
    held_out = sum(clip_split(concept) == "val" for concept in others)
    assert 70 < held_out < 130
    assert clip_split("leopard") == "val"  # fixed: it does not depend on the packages


def test_made_up_clips_are_told_from_real_ones(packages: Path, tmp_path: Path) -> None:
    folder = build_toy_clips(tmp_path / "toy")
    toy = open_clips(folder)
    assert is_toy(folder)
    build_clips(tmp_path / "clips", cache=packages, workers=1)
    assert not is_toy(tmp_path / "clips")
    assert (len(toy.rows), toy.side) == (THINGS + len(HELD_OUT), SIDE)
    assert {row.concept for row in toy.rows if row.split == "val"} == set(HELD_OUT)
    assert len({row.motion for row in toy.rows}) > 8


def test_other_folders_are_refused(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a data set of clips"):
        open_clips(tmp_path)
    with pytest.raises(DataError, match="holds images, not clips"):
        open_clips(build_toy(tmp_path / "images"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(DataError, match="is in use"):
        build_clips(tmp_path / "used", cache=packages)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = build_toy_clips(tmp_path / "toy")
    manifest = json.loads((folder / SOURCES).read_text())
    (folder / SOURCES).write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(DataError, match="has format 0, this version reads 1"):
        open_clips(folder)
    (folder / SOURCES).write_text(json.dumps(manifest))
    rows = (folder / ROWS).read_text().splitlines(keepends=True)
    (folder / ROWS).write_text("".join(rows[:-1]))
    with pytest.raises(DataError, match="is damaged"):
        open_clips(folder)
    (folder / ROWS).write_text("{}\n")
    with pytest.raises(DataError, match="is damaged"):
        open_clips(folder)
    (folder / FRAMES).unlink()
    with pytest.raises(DataError, match="is damaged"):
        open_clips(folder)
