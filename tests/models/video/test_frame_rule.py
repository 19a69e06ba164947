"""How many frames a clip may have."""

from __future__ import annotations

import pytest

from sanakit.errors import SettingsError, SizeError
from sanakit.models.video.frame_rule import FrameRule, check_alike, chunk_sizes


@pytest.mark.parametrize(("step", "frames", "latents"), [(4, 1, 1), (4, 81, 21), (8, 17, 3), (1, 6, 6)])
def test_frames_and_latents_are_told_from_each_other(step: int, frames: int, latents: int):
    assert FrameRule(step).latents(frames) == latents
    assert FrameRule(step).frames(latents) == frames


@pytest.mark.parametrize(
    ("frames", "nearest"), [(-3, "1 or 5"), (0, "1 or 5"), (4, "1 or 5"), (18, "17 or 21"), (80, "77 or 81")]
)
def test_another_number_is_refused_with_its_neighbours(frames: int, nearest: str):
    with pytest.raises(SizeError, match=f"{nearest} frames") as caught:
        FrameRule(4).latents(frames)
    assert caught.value.setting == "frames"
    with pytest.raises(SizeError, match="at least 1"):
        FrameRule(4).frames(0)


def test_chunks_are_the_first_one_then_equal_ones_and_the_rest():
    assert chunk_sizes(11, 4) == [1, 4, 4, 2]
    assert chunk_sizes(5, 1) == [1] * 5
    assert chunk_sizes(5, 5) == [5]


def test_chunks_of_no_whole_latents_are_refused():
    for chunk in (None, 4, 8):
        FrameRule(4).check_chunk(chunk, latents=False)
    FrameRule(4).check_chunk(3, latents=True)
    for chunk in (0, -4, 3):
        with pytest.raises(SettingsError, match="a multiple of 4"):
            FrameRule(4).check_chunk(chunk, latents=False)
    with pytest.raises(SettingsError, match="at least 1"):
        FrameRule(4).check_chunk(0, latents=True)


def test_chunks_may_differ_in_their_frames_only():
    check_alike((1, 3, 4, 8, 8), None)
    check_alike((1, 3, 4, 8, 8), (1, 3, 1, 8, 8))
    for other in ((2, 3, 4, 8, 8), (1, 3, 4, 8, 9)):
        with pytest.raises(SizeError, match="only the number of frames may differ"):
            check_alike(other, (1, 3, 1, 8, 8))
