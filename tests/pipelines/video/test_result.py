"""Clips of a result: the frames of the only one, files of several, tensors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import open_clip
from sanakit.errors import SettingsError
from sanakit.pipelines.video.result import ClipResult, ClipStep


def result(clips) -> ClipResult:
    return ClipResult(clips=clips, seeds=[0], timings={}, metadata=[{"prompt": "a cat"}], warnings=[])


def clip(level: int) -> VideoClip:
    frames = np.full((3, 16, 16, 3), level, np.uint8)
    return VideoClip(frames=frames, rate=Fraction(8), settings={"prompt": "a cat", "seed": level})


def test_the_frames_of_the_only_clip_are_those_of_the_result() -> None:
    assert (result([clip(7)]).frames == 7).all()
    with pytest.raises(SettingsError, match="has 2 clips: take the frames of one"):
        _ = result([clip(7), clip(8)]).frames


def test_several_clips_get_numbers_in_their_names(tmp_path) -> None:
    saved = result([clip(7), clip(200)]).save(tmp_path / "cat.webp", quality=100)
    assert [path.name for path, _ in saved] == ["cat-1.webp", "cat-2.webp"]
    with open_clip(tmp_path / "cat-2.webp") as file:
        assert file.facts.settings["seed"] == 200
        assert (file.read().frames == 200).all()


def test_tensors_are_not_files() -> None:
    with pytest.raises(SettingsError, match='draw with output="clip"'):
        result(torch.zeros(1, 3, 1, 8, 8)).save("cat.webp")


def test_a_preview_shows_the_middle_frame_of_the_clean_latents() -> None:
    shown: list[torch.Tensor] = []

    def draw(latents: torch.Tensor) -> Image.Image:
        shown.append(latents)
        return Image.new("RGB", (1, 1))

    clean = torch.randn(2, 4, 5, 2, 2)
    step = ClipStep(index=1, total=2, latents=torch.zeros_like(clean), clean=clean, draw=draw)
    step.preview(1)
    assert torch.equal(shown[0], clean[1, :, 2])
