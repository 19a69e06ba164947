"""What a call for an edited clip is checked for, without weights."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from sanakit.clips.clip import VideoClip
from sanakit.errors import ArgumentError, SettingsError, SizeError
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.video.wan_vae import WanVAEConfig
from sanakit.pipelines.video.editing.request import ClipEditRequest, check_edit_request
from sanakit.weights.settings import ModelSettings
from tests.pipelines.video.editing.tiny import CONFIG

CODEC = WanVAEConfig(width=8, depth=1, latent_channels=4, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4)
OWN = ModelSettings(name="tiny", width=96, height=64)


def clip(frames: int) -> VideoClip:
    return VideoClip(frames=np.zeros((frames, 32, 48, 3), np.uint8), rate=Fraction(12))


def check(frames: int = 30, config: SanaStreamingConfig = CONFIG, **settings: Any) -> ClipEditRequest:
    return check_edit_request(OWN, config, CODEC, "a fox", clip(frames), **settings)


def test_a_call_is_completed_with_the_clips_frames_shape_and_rate() -> None:
    request = check(seed=7)
    assert (request.frames, request.size, request.rate) == (29, (64, 96), 12)
    told = {"prompt": "a fox", "seed": 7, "width": 96, "height": 64, "frames": 29, "motion": 0}
    assert request.settings == told | {"model": "tiny", "edits": "a clip"}
    assert request.notes == ["The first 29 of the clip's 30 frames are edited, the others left out."]
    assert check(29, motion=5).prompt == "a fox motion score: 5."
    assert check(29).seed != check(29).seed


def test_weights_of_whole_clips_are_refused_at_once() -> None:
    with pytest.raises(SettingsError, match="weights are bidirectional, and a state is for"):
        check(config=replace(CONFIG, variant="bidirectional"))


def test_more_frames_than_there_are_positions_for_are_refused_at_once() -> None:
    assert check(125).frames == 125
    with pytest.raises(SizeError, match="137 frames, but this model has positions for 125"):
        check(137)


def test_parts_of_two_models_and_arguments_of_other_tasks_are_refused() -> None:
    with pytest.raises(SettingsError, match="8 latent channels, the autoencoder 4"):
        check(config=replace(CONFIG, latent_channels=8))
    with pytest.raises(ArgumentError, match="strength is not an argument here: use nothing: the model is"):
        check(strength=0.5)
