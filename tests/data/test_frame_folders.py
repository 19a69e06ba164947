"""Folders of frames are clips; what else looks like one is named."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from sanakit.data.frame_folders import find_frame_folders
from sanakit.data.medium import CLIPS
from sanakit.data.read.index import scan
from sanakit.data.read.open import open_source
from sanakit.errors import DataError
from tests.data.clip_files import counted

PATHS = [
    *("a.mp4", "run/clip.json", "run/000.png", "run/deep/001.png"),
    *("plain/1.jpg", "plain/2.jpg", "mixed/1.jpg", "mixed/b.mp4", "clip.json"),
]


def test_frames_belong_to_their_folder_and_all_other_files_are_given_on() -> None:
    found = find_frame_folders(PATHS, None)
    assert found.folders == {"run": ["run/clip.json", "run/000.png", "run/deep/001.png"]}
    assert sorted(found.others) == ["a.mp4", "clip.json", "mixed/1.jpg", "mixed/b.mp4"]
    assert list(found.ignored) == ["plain"]
    assert "--folder-fps" in found.ignored["plain"]
    rated = find_frame_folders(PATHS, Fraction(8))
    assert rated.folders.keys() == {"run", "plain"}
    assert (rated.others, rated.ignored) == (found.others, {})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    counted(tmp_path / "v1.2" / "run", 9, rate=12)
    (tmp_path / "v1.2" / "run.txt").write_text("somebody runs")
    plain = tmp_path / "walk.slow"
    plain.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), "red").save(plain / f"{number}.png")
    (tmp_path / "walk.slow.json").write_text('["somebody walks"]')
    return tmp_path


def test_folders_have_captions_beside_them_and_a_rate_of_their_own_or_the_given_one(place: Path) -> None:
    source = open_source(place, CLIPS, frame_rate=Fraction(8))
    index = scan(source)
    assert [source.key(n) for n in range(2)] == ["v1.2/run", "walk.slow"]
    assert [source.captions(n)[0].text for n in range(2)] == ["somebody runs", "somebody walks"]
    assert index.seconds is not None
    assert index.seconds.tolist() == [[3, 4], [1, 2]]
    assert (index.heights.tolist(), index.widths.tolist()) == ([32, 30], [32, 40])
    assert source.ignored == {}


def test_without_a_rate_a_folder_is_named_with_its_caption(place: Path) -> None:
    source = open_source(place, CLIPS)
    assert len(source) == 1
    assert set(source.ignored) == {"walk.slow", "walk.slow.json"}


def test_a_rate_of_folders_is_refused_where_none_can_be(tmp_path: Path, tar: Callable[..., Path]) -> None:
    clip = counted(tmp_path / "a.webp", 3)
    (tmp_path / "shards").mkdir()
    shard = tar(tmp_path / "shards" / "s.tar", [("a.webp", clip.read_bytes())])
    for place in (shard, shard.parent):
        assert len(open_source(place, CLIPS)) == 1
        with pytest.raises(
            DataError, match=r"is not a folder of clips.*leave their rate out \(--folder-fps\)"
        ):
            open_source(place, CLIPS, frame_rate=Fraction(8))


def test_a_rate_that_no_folder_needs_is_refused(tmp_path: Path) -> None:
    """A folder that states its rate, and a file: neither takes the one that was given."""
    counted(tmp_path / "a.webp", 3)
    counted(tmp_path / "run", 3, rate=4)
    with pytest.raises(DataError, match=r"without a rate of its own.*leave it out \(--folder-fps\)"):
        open_source(tmp_path, CLIPS, frame_rate=Fraction(8))


def test_a_frame_that_changes_or_goes_is_another_source_and_told(place: Path) -> None:
    prints = [open_source(place, CLIPS).fingerprint()]
    (place / "v1.2" / "run" / "000003.png").write_bytes(b"x")
    prints.append(open_source(place, CLIPS).fingerprint())
    (place / "v1.2" / "run" / "000003.png").unlink()
    source = open_source(place, CLIPS)
    assert len({*prints, source.fingerprint()}) == 3
    assert scan(source).broken == {0: "is damaged or cut off (8 of 9 frames are there): use an intact file."}
