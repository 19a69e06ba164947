"""Images and clips to start from: their size, their frames, and what is told of them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.errors import SettingsError
from sanakit.models.video.frame_rule import FrameRule
from sanakit.pipelines.video.source import conditioning_frame, frames_of, read_source, source_frames

RULE = FrameRule(4)


def clip(frames: int, width: int = 96, height: int = 64) -> VideoClip:
    levels = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return VideoClip(frames=np.broadcast_to(levels, (frames, height, width, 3)).copy(), rate=Fraction(8))


def test_an_image_of_the_right_size_is_taken_pixel_by_pixel() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    notes: list[str] = []
    frame = conditioning_frame(Image.fromarray(levels), (64, 96), notes)
    assert frame.shape == (1, 3, 1, 64, 96)
    assert torch.equal(frame[0, :, 0].permute(1, 2, 0), torch.from_numpy(levels) / 127.5 - 1)
    assert notes == []


def test_transparent_parts_of_an_image_are_white() -> None:
    frame = conditioning_frame(Image.new("RGBA", (96, 64), (255, 0, 0, 0)), (64, 96), [])
    assert (frame == 1).all()


def test_another_shape_is_cut_from_the_middle_and_told() -> None:
    image = Image.new("RGB", (192, 64), "black")
    image.paste("white", (48, 0, 144, 64))
    notes: list[str] = []
    frame = conditioning_frame(image, (64, 96), notes)
    assert (frame == 1).all()
    assert notes == ["The image of 192x64 px is cut to the shape of 96x64 px."]


def test_frames_of_a_clip_keep_their_order() -> None:
    frames = source_frames(clip(9), 5, (64, 96), [])
    assert frames.shape == (1, 3, 5, 64, 96)
    assert torch.equal(frames[0, 0, :, 0, 0], torch.arange(5) / 127.5 - 1)


@pytest.mark.parametrize(("there", "usual", "wanted"), [(9, 81, 9), (8, 81, 5), (1, 81, 1), (30, 17, 17)])
def test_frames_that_fit_are_taken_and_others_told(there, usual, wanted) -> None:
    notes: list[str] = []
    assert frames_of(clip(there, 8, 8), None, usual, RULE, notes) == wanted
    assert bool(notes) == (wanted < there)


def test_more_frames_than_there_are_cannot_be_had() -> None:
    with pytest.raises(SettingsError, match="has 5 frames, not 9"):
        frames_of(clip(5), 9, 81, RULE, [])


def test_no_more_of_a_file_is_read_than_is_redrawn(tmp_path) -> None:
    clip(20).save(tmp_path / "c.webp", quality=100)
    read = read_source(tmp_path / "c.webp", RULE, usual=9)
    assert len(read.frames) == 9
    assert read.notes[-1].endswith("the first 9 of 20 frames are read.")
    assert len(read_source(tmp_path / "c.webp", RULE, usual=9, frames=17).frames) == 17
    assert len(read_source(tmp_path / "c.webp", RULE, usual=81, seconds=0.5).frames) == 5
    slower = read_source(tmp_path / "c.webp", RULE, usual=81, rate=4)
    assert (len(slower.frames), slower.rate) == (10, 4)
    assert "Taken at 4 frames a second of 8" in slower.notes[-1]
