"""Clips of a training: encoded once, and some held out where there are enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit.errors import DataError
from sanakit.train.runs import trained_clips
from sanakit.train.runs.trained_clips import TrainedClips, open_trained_clips
from tests.data.clip_files import counted
from tests.pipelines.video.tiny import save_tiny

DEFAULTS = {"width": 64, "height": 64, "frames": 9, "negative_prompt": "", "motion": 5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny-video", defaults=DEFAULTS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(3):
        counted(folder / f"{number}.webp", 9, side=64, caption=f"clip {number}")
    return folder


def opened(data: Path, folder: Path, model: Path, **changed: Any) -> TrainedClips:
    settings: dict[str, Any] = {"batch_size": 2, "seed": 0, "resolution": None, "device": torch.device("cpu")}
    return open_trained_clips(data, folder, model, **(settings | changed))


def test_clips_are_encoded_once_and_a_cache_serves_as_it_is(model: Path, clips: Path, tmp_path: Path) -> None:
    first = opened(clips, tmp_path / "cache", model)
    assert first.latents.shape == (3, 4, 3, 8, 8)
    assert sorted(first.prompts) == [f"clip {number} motion score: 5." for number in range(3)]
    assert first.notes[0] == "3 of 3 clips are trained on."
    shards = (tmp_path / "cache").glob("*.safetensors")
    times = {path: path.stat().st_mtime_ns for path in shards}
    again = opened(clips, tmp_path / "cache", model)
    cached = opened(tmp_path / "cache", tmp_path / "no", model)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert not (tmp_path / "no").exists()
    assert all(torch.equal(one.latents, first.latents) for one in (again, cached))


def test_of_enough_clips_those_to_measure_on_are_held_out(
    model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_clips, "HELD_OUT_FROM", 3)
    monkeypatch.setattr(trained_clips, "REFERENCE", 1)
    found = opened(clips, tmp_path / "cache", model)
    assert len(found.prompts) == 2
    assert found.captions[0] not in found.prompts
    assert found.notes[-1] == "1 clip is held out to measure on."


def test_an_output_among_the_clips_is_refused(model: Path, clips: Path) -> None:
    with pytest.raises(DataError, match="among the images to train on"):
        opened(clips, clips / "cache", model)
