"""A clip in memory, and as a tensor."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from sanakit.clips.clip import VideoClip, clip_levels
from sanakit.clips.reading import open_clip
from sanakit.errors import SettingsError
from tests.clips.moving import moving


def test_frames_become_a_tensor_and_come_back_to_the_level() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    tensor = VideoClip(frames=levels, rate=Fraction(16)).tensor()
    assert tensor.shape == (1, 3, 5, 6, 8)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor[0, 1, 2], torch.from_numpy(levels[2, ..., 1]) / 127.5 - 1)
    assert (clip_levels(torch.cat([tensor, -tensor])) == np.stack([levels, 255 - levels])).all()


def test_values_beyond_the_range_are_clamped() -> None:
    assert clip_levels(torch.full((1, 3, 2, 4, 4), 3.0)).max() == 255
    assert clip_levels(torch.full((1, 3, 2, 4, 4), -3.0)).max() == 0


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
    ],
)
def test_frames_of_another_kind_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(SettingsError, match=r"The frames came as .* give uint8"):
        VideoClip(frames=frames, rate=Fraction(16))


def test_a_clip_lasts_as_long_as_its_frames_are_shown() -> None:
    clip = VideoClip(frames=moving(17), rate="23.976")  # pyright: ignore[reportArgumentType]
    assert clip.rate == Fraction(24000, 1001)
    assert clip.seconds == Fraction(17 * 1001, 24000)


def test_saving_returns_the_path_and_what_the_format_cannot_hold(tmp_path: Path) -> None:
    clip = VideoClip(frames=moving(4), rate=Fraction(24), settings={"seed": 1})
    path, notes = clip.save(tmp_path / "cat.gif")
    assert path == tmp_path / "cat.gif"
    assert "1/100 s" in notes[0]
    with open_clip(path) as saved:
        assert saved.facts.settings == {"seed": 1}
    assert clip.save(tmp_path / "cat", quality=None)[1] == ()
