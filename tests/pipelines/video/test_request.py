"""What a call for clips is refused for and completed with, before any weights are there."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.clips.sizes import trained_sizes
from sanakit.errors import SettingsError, SizeError
from sanakit.models.contracts import LatentShape
from sanakit.models.video.frame_rule import FrameRule
from sanakit.models.video.sana_video import SANA_VIDEO_2B_480P, SANA_VIDEO_2B_720P
from sanakit.models.video.wan_vae import WAN_VAE
from sanakit.pipelines.control import step_times
from sanakit.pipelines.video.request import ClipShape, VideoSpec, check_clip_request
from sanakit.text.video import NEGATIVE_PROMPT
from sanakit.weights.settings import ModelSettings
from sanakit.weights.video.settings import VideoSettings

SHARED = ModelSettings(
    name="SANA-Video",
    steps=50,
    guidance=6.0,
    width=832,
    height=480,
    flow_shift=8.0,
    native_flow_shift=7.0,
    sizes=trained_sizes(30),
)
SPEC = VideoSpec.of(VideoSettings(shared=SHARED), SANA_VIDEO_2B_480P, WAN_VAE)
FREE = replace(SPEC, settings=replace(SPEC.settings, shared=replace(SHARED, sizes=())))  # of no bins


def picture(width: int = 832, height: int = 480) -> Image.Image:
    return Image.new("RGB", (width, height), "red")


def clip(frames: int = 17, rate: int = 24) -> VideoClip:
    return VideoClip(frames=np.zeros((frames, 64, 112, 3), np.uint8), rate=Fraction(rate))


def check(prompt="a cat waves", spec: VideoSpec = SPEC, **settings):
    return check_clip_request(spec, prompt, **({"seed": 0} | settings))


def test_what_is_not_said_is_the_published_way() -> None:
    request = check()
    sampling = request.sampling
    assert (request.frames, request.rate) == (81, 16)
    assert (sampling.cells, sampling.size) == (ClipShape(16, 21, 60, 104), (480, 832))
    assert (sampling.steps, sampling.guidance) == (50, 6.0)
    assert [text.text for text in sampling.texts] == ["a cat waves motion score: 30."]
    assert [text.text for text in sampling.negatives] == [NEGATIVE_PROMPT]
    assert request.metadata == [
        {
            "prompt": "a cat waves",
            "negative_prompt": NEGATIVE_PROMPT,
            **{"width": 832, "height": 480, "frames": 81, "motion": 30, "seed": 0},
            **{"steps": 50, "guidance": 6.0, "solver": "dpm", "model": "SANA-Video"},
            "version": request.metadata[0]["version"],
        }
    ]
    assert sampling.notes == ()


def test_the_native_dialect_has_its_own_motion_score_shift_and_whole_times() -> None:
    request = check(dialect="native", clip=clip(1), strength=1.0, solver="euler", steps=4)
    assert request.sampling.texts[0].text == "a cat waves motion score: 10."
    assert request.metadata[0]["dialect"] == "native"
    usual = check(clip=clip(1), strength=1.0, solver="euler", steps=4)
    assert step_times(usual.sampling.solver) != step_times(request.sampling.solver)
    assert all(round(1000 * t, 6) % 1 == 0 for t in step_times(request.sampling.solver))
    assert step_times(request.sampling.solver) == step_times(
        check(dialect="native", solver="euler", steps=4).sampling.solver
    )


# Frames


@pytest.mark.parametrize(("frames", "nearest"), [(18, "17 or 21"), (80, "77 or 81"), (2, "1 or 5")])
def test_a_number_of_frames_between_two_allowed_ones_is_refused_with_both(frames, nearest) -> None:
    with pytest.raises(SizeError, match=f"use {nearest} frames"):
        check(frames=frames)


def test_ltx2_takes_8_k_and_1_frames() -> None:
    spec = replace(SPEC, rule=FrameRule(8), latent_channels=128, compression=32, patch=1)
    assert check(spec=spec, frames=17, width=1280, height=704, binned=False).sampling.cells.frames == 3
    with pytest.raises(SizeError, match="use 9 or 17 frames"):
        check(spec=spec, frames=13, width=1280, height=704, binned=False)


def test_seconds_become_the_nearest_count_and_say_so() -> None:
    assert check(seconds=5).sampling.notes == ()
    request = check(seconds=1.1, rate=16)
    assert request.frames == 17
    (note,) = request.sampling.notes
    assert "17 frames are taken, 1 s." in note


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"frames": 17, "seconds": 1}, "frames and seconds cannot be combined"),
        ({"frames": 0}, "frames = 0, but it must be a whole number from 1"),
        ({"frames": 17.0}, "frames = 17.0, but it must be a whole number"),
        ({"frames": "17", "clip": clip(1)}, "frames = '17', but it must be a whole number"),
        ({"frames": 4101}, "at most 4093 frames"),
        ({"seconds": "long"}, "'long' is not a number of seconds"),
        ({"rate": 0}, "outside 1/100 to 1000"),
        ({"motion": 101}, "motion = 101, but it must be a whole number from 0 to 100"),
        ({"num_clips": 65}, "num_clips = 65, but it must be a whole number from 1 to 64"),
        ({"output": "gif"}, 'it must be "clip", "pt" or "latent"'),
        ({"solver": "scm"}, 'supports only "dpm" .usual. or "euler"'),
        ({"guidance_kind": "pag=2"}, "keeps its blocks to itself: omit pag"),
        ({"strength": 0.5}, "give the clip, or omit it"),
        ({"image": "cat.png"}, "image came as str: open it"),
        ({"clip": "cat.mp4"}, "clip came as str: read it"),
        ({"image": picture(), "clip": clip()}, "cannot be combined"),
        ({"image": picture(), "frames": 1}, "ask for 5 frames or more"),
        ({"clip": clip(), "strength": 1.5}, "strength = 1.5, but it must be a number from 0"),
        ({"clip": clip(), "frames": 21}, "The clip has 17 frames, not 21"),
        ({"latents": torch.zeros(1, 16, 20, 60, 104)}, r"of the shape \(1, 16, 21, 60, 104\)"),
        ({"width": 8000, "height": 480}, "from 64 to 4096 px"),
        ({"width": 840, "height": 480, "binned": False}, "multiples of 16.*nearest such size is 832x480"),
    ],
)
def test_a_setting_that_cannot_be_had_is_refused_in_a_sentence(settings, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence):
        check(**settings)


# Sizes


@pytest.mark.parametrize("size", trained_sizes(30))
def test_every_trained_size_is_drawn_as_it_is(size) -> None:
    request = check(width=size[0], height=size[1])
    assert request.sampling.notes == ()
    assert (8 * request.sampling.cells.width, 8 * request.sampling.cells.height) == size


def test_every_trained_size_of_720p_fits_its_latents() -> None:
    shared = replace(SHARED, sizes=trained_sizes(22), width=1280, height=704)
    codec = SimpleNamespace(compression=32, latent_channels=128, frame_rule=FrameRule(8), lookahead=22)
    spec = VideoSpec.of(VideoSettings(shared=shared), SANA_VIDEO_2B_720P, codec)
    for width, height in trained_sizes(22):
        cells = check(spec=spec, width=width, height=height).sampling.cells
        assert (32 * cells.width, 32 * cells.height, cells.frames) == (width, height, 11)


def test_another_size_is_told_with_the_nearest_ones() -> None:
    request = check(width=640, height=360)
    assert (request.sampling.cells.height, request.sampling.cells.width) == (60, 104)
    assert request.sampling.size == (360, 640)
    (note,) = request.sampling.notes
    assert "did not learn the size 640x360" in note
    assert "832x480, the nearest that it learned (then " in note


def test_an_image_gives_its_shape_and_is_cut_to_the_nearest_one() -> None:
    tall = check(image=picture(480, 832))
    assert tall.sampling.size == (832, 480)
    assert tall.sampling.notes == ()
    odd = check(image=picture(1000, 1100))
    assert odd.sampling.size == (672, 592)
    assert odd.sampling.notes == ("The image of 1000x1100 px is cut to the shape of 592x672 px.",)
    free = check(spec=FREE, image=picture(1000, 1000))
    assert free.sampling.size == (624, 624)
    assert free.first is not None
    assert free.first.shape == (1, 3, 1, 624, 624)


def test_a_size_that_was_given_goes_before_that_of_the_image() -> None:
    request = check(image=picture(480, 832), width=832, height=480)
    assert request.sampling.size == (480, 832)
    assert "cut to the shape of 832x480" in request.sampling.notes[0]


# Clips to start from


def test_of_a_clip_all_frames_that_fit_are_redrawn_at_its_rate() -> None:
    request = check(clip=replace(clip(frames=7), notes=("Its sound is left out.",)))
    assert (request.frames, request.rate) == (5, 24)
    left_out = "The first 5 of the clip's 7 frames are redrawn, the others left out."
    assert request.sampling.notes == ("Its sound is left out.", left_out)
    assert check(clip=clip(1), rate=8).rate == 8
    source = check(clip=clip(), frames=5).source
    assert source is not None
    assert source.shape == (1, 3, 5, 480, 832)


def test_of_a_long_clip_the_models_own_number_of_frames_is_redrawn() -> None:
    short = replace(SPEC, settings=replace(SPEC.settings, frames=5))
    request = check(spec=short, clip=clip())
    assert request.frames == 5
    assert "first 5 of the clip's 17" in request.sampling.notes[0]


def test_of_a_clip_the_last_steps_are_done() -> None:
    request = check(clip=clip(1), steps=10, strength=0.3)
    assert request.sampling.solver is not None
    assert len(request.sampling.solver.times) == 4
    assert not request.sampling.from_noise
    assert check(clip=clip(1), strength=0).sampling.solver is None
    assert check(clip=clip(1), strength=1.0).sampling.from_noise


# Types


def test_a_single_frame_stays_an_axis() -> None:
    shape = ClipShape(4, 1, 8, 12)
    assert shape.dims == (4, 1, 8, 12)
    assert shape.noise(3)[0].shape == (4, 1, 8, 12)
    assert torch.equal(shape.noise(3)[0][:, 0], LatentShape(4, 1, 8, 12).noise(3)[0])


def test_parts_of_different_models_are_refused() -> None:
    with pytest.raises(SettingsError, match="128 latent channels, the autoencoder 16"):
        VideoSpec.of(SPEC.settings, SANA_VIDEO_2B_720P, WAN_VAE)


def test_weights_of_words_are_stored_as_a_number_that_files_hold() -> None:
    assert check("a (red:1.5) cat", prompt_weights=True).metadata[0]["prompt_weights"] == 1
