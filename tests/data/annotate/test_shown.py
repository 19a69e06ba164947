"""What a captioner sees of a clip: evenly spread frames in a grid, or the reason why it cannot be read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.data.annotate.captioner import LONGEST_SIDE
from sanakit.data.annotate.shown import FRAME_SIDE, read_sample, spread
from sanakit.data.medium import CLIPS
from sanakit.data.read.open import open_source
from sanakit.data.read.source import Source
from tests.data.clip_files import LEVEL, counted


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (9, 1), (16, 4), (81, 6), (3, 8), (5, 5)])
def test_frames_are_the_middles_of_equal_parts(count: int, wanted: int) -> None:
    numbers = spread(count, wanted)
    assert numbers == sorted({*numbers})
    if count < wanted:
        assert numbers == list(range(count))
    else:
        middles = [(part + 0.5) * count / wanted for part in range(wanted)]
        assert numbers == [int(middle) for middle in middles]


def read(source: Source, frames: int = 1, *, apart: bool = False) -> list[Image.Image]:
    shown = read_sample(source, 0, frames, apart=apart)
    assert not isinstance(shown, str), shown
    return shown


@pytest.mark.parametrize("frames", [1, 4, 20])
def test_a_scorer_sees_the_frames_of_the_grid_one_by_one(tmp_path: Path, frames: int) -> None:
    counted(tmp_path / "a.webp", 12)
    shown = read(open_source(tmp_path, CLIPS), frames, apart=True)
    assert [one.size for one in shown] == [(32, 32)] * min(frames, 12)
    assert [round(np.asarray(one)[16, 16, 0] / LEVEL) for one in shown] == spread(12, frames)


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_the_grid_holds_the_frames_row_by_row(tmp_path: Path, frames: int) -> None:
    counted(tmp_path / "a.webp", 12)
    (grid,) = read(open_source(tmp_path, CLIPS), frames)
    columns, rows = {1: (1, 1), 2: (2, 1), 3: (2, 2), 4: (2, 2)}[frames]
    assert grid.size == (32 * columns, 32 * rows)
    centres = [(32 * (n % columns) + 16, 32 * (n // columns) + 16) for n in range(columns * rows)]
    seen = [round(np.asarray(grid)[y, x, 0] / LEVEL) for x, y in centres]
    white = [round(255 / LEVEL)] * (columns * rows - frames)
    assert seen == [*spread(12, frames), *white]


def test_large_clips_are_shown_within_the_longest_side(tmp_path: Path) -> None:
    frames = np.zeros((4, 400, 1200, 3), np.uint8)
    VideoClip(frames=frames, rate=Fraction(8)).save(tmp_path / "a.webp")
    source = open_source(tmp_path, CLIPS)
    sizes = []
    for count in (1, 4):
        (shown,) = read(source, count)
        sizes.append(shown.size)
    assert sizes == [(LONGEST_SIDE, 341), (LONGEST_SIDE, 342)]
    assert [one.size for one in read(source, 4, apart=True)] == [(FRAME_SIDE, 213)] * 4


def test_a_damaged_clip_is_a_reason_without_its_name_twice(tmp_path: Path) -> None:
    whole = counted(tmp_path / "a.webp", 9).read_bytes()
    (tmp_path / "a.webp").write_bytes(whole[: len(whole) // 2])
    reason = read_sample(open_source(tmp_path, CLIPS), 0)
    assert isinstance(reason, str)
    assert "a.webp" not in reason
    assert "damaged" in reason


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_an_animation_among_images_is_not_described_by_its_first_frame(tmp_path: Path, name: str) -> None:
    stills = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    stills[0].save(tmp_path / name, save_all=True, append_images=stills[1:], duration=100)
    reason = read_sample(open_source(tmp_path), 0)
    assert isinstance(reason, str)
    assert "--frames" in reason
    stills[0].save(tmp_path / name)
    assert [one.size for one in read(open_source(tmp_path))] == [(16, 16)]
