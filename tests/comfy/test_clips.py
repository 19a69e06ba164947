"""The nodes of clips: what they draw, what they show of it, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.comfy.clips import LoadClipModel
from sanakit.errors import MemoryLimitError, SettingsError, SizeError
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.weights.find.catalog import CLIP_MODELS
from tests.comfy.calling import Stopped, call
from tests.pipelines.video.tiny import save_embedded, save_tiny

GIVEN = {"prompt": "a red apple", "seed": 3, "steps": 2, "guidance": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("comfy") / "model")


@pytest.fixture(scope="module")
def clips(folder: Path) -> TextToVideo:
    [loaded] = call("SanakitLoadClipModel", path=f" {folder} ")
    return loaded


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(5))


def levels(image: Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).numpy()


def test_text_to_video_gives_the_frames_of_the_library(clips: TextToVideo) -> None:
    frames, fps = call("SanakitTextToVideo", clips, **GIVEN, frames=5, width=64, height=64, fps=8.0, motion=7)
    wanted = clips(
        *("a red apple",), seed=3, steps=2, guidance=3.0, frames=5, width=64, height=64, rate=8, motion=7
    )
    assert frames.shape == (5, 64, 64, 3)
    assert frames.dtype == torch.float32
    assert np.array_equal(levels(frames), wanted.frames)
    assert fps == 8.0


def test_what_the_widgets_hold_at_first_are_the_models_own_settings(clips: TextToVideo) -> None:
    frames, fps = call("SanakitTextToVideo", clips, prompt="a red apple", seed=3)
    assert np.array_equal(levels(frames), clips("a red apple", seed=3).frames)
    assert fps == 16.0
    [without, _] = call("SanakitTextToVideo", clips, prompt="a red apple", seed=3, negative_prompt="a table")
    assert not torch.equal(without, frames)


def test_image_to_video_begins_with_the_image(clips: TextToVideo, photo: Tensor) -> None:
    frames, _ = call("SanakitImageToVideo", clips, photo, **GIVEN)
    image = Image.fromarray(levels(photo)[0])
    wanted = clips("a red apple", seed=3, steps=2, guidance=3.0, image=image)
    assert np.array_equal(levels(frames), wanted.frames)


def test_video_to_video_redraws_the_clip_at_its_strength(clips: TextToVideo) -> None:
    came = torch.rand(9, 64, 96, 3, generator=torch.Generator().manual_seed(6))
    frames, fps = call("SanakitVideoToVideo", clips, came, **GIVEN, strength=0.5, fps=12.5)
    clip = VideoClip(frames=levels(came), rate="12.5")
    wanted = clips("a red apple", seed=3, steps=2, guidance=3.0, clip=clip, strength=0.5)
    assert np.array_equal(levels(frames), wanted.frames)
    assert fps == 12.5


def test_frames_that_are_transparent_lie_on_white(clips: TextToVideo) -> None:
    came = torch.rand(5, 64, 96, 4)
    came[..., 3] = 0
    given = {**GIVEN, "steps": 1, "strength": 0.0}
    [clear, _] = call("SanakitVideoToVideo", clips, came, **given)
    [white, _] = call("SanakitVideoToVideo", clips, torch.ones(5, 64, 96, 3), **given)
    assert torch.equal(clear, white)


@pytest.mark.parametrize("method", ["none", "latent2rgb"])
def test_each_step_is_shown_on_one_bar(clips: TextToVideo, comfy: SimpleNamespace, method: str) -> None:
    comfy.method.value = method
    call("SanakitTextToVideo", clips, **GIVEN)
    [bar] = comfy.bars
    assert [shown[:2] for shown in bar] == [(1, 2), (2, 2)]
    assert [shown[2] is None for shown in bar] == [method == "none"] * 2


def test_an_interruption_stops_at_the_next_step(clips: TextToVideo, comfy: SimpleNamespace) -> None:
    comfy.stop_at = 2
    with pytest.raises(Stopped):
        call("SanakitTextToVideo", clips, **(GIVEN | {"steps": 50}))
    assert [len(bar) for bar in comfy.bars] == [2]


def test_a_mistake_is_told_in_the_sentence_of_the_library(clips: TextToVideo, photo: Tensor) -> None:
    with pytest.raises(SizeError, match="use 17 or 21 frames"):
        call("SanakitTextToVideo", clips, **GIVEN, frames=18)
    with pytest.raises(SettingsError, match="2 images came to begin one clip with"):
        call("SanakitImageToVideo", clips, torch.cat([photo, photo]), **GIVEN)
    with pytest.raises(SettingsError, match="The clip has 1 frame, not 9"):
        call("SanakitVideoToVideo", clips, photo, **GIVEN, frames=9)


def test_a_model_is_loaded_within_a_budget_or_refused_by_name(folder: Path, comfy: SimpleNamespace) -> None:
    [lean] = call("SanakitLoadClipModel", path=str(folder), memory="1MB")
    with pytest.raises(MemoryLimitError, match="do not fit in 1 MB"):
        call("SanakitTextToVideo", lean, **GIVEN)
    with pytest.raises(SettingsError, match="No video model is named"):
        call("SanakitLoadClipModel")
    with pytest.raises(SettingsError, match="diffusers/gone left ComfyUI"):
        call("SanakitLoadClipModel", model="diffusers/gone")
    (comfy.diffusers / "mine").symlink_to(folder)
    [found] = call("SanakitLoadClipModel", model="diffusers/mine")
    assert found.settings.shared.name == "tiny-video"


def test_an_embedded_model_is_offered_first_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", tmp_path / "absent")
    names, _ = LoadClipModel.INPUT_TYPES()["required"]["model"]
    assert names == ["none"]
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", save_embedded(tmp_path / "model"))
    names, options = LoadClipModel.INPUT_TYPES()["required"]["model"]
    assert (names, options["default"]) == (["pocket-video", "none"], "pocket-video")
    [loaded] = call("SanakitLoadClipModel", model="pocket-video")
    assert loaded.settings.shared.name == "pocket-video"
    with pytest.raises(SettingsError, match="No video model is named"):
        call("SanakitLoadClipModel", model="none")
