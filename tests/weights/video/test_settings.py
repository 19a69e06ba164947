"""Defaults of video models: of the published ones, of a folder's scheduler and sanakit.json."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

import pytest

from sanakit.clips.sizes import trained_sizes
from sanakit.errors import WeightsError
from sanakit.text.video import NEGATIVE_PROMPT, VIDEO_INSTRUCTION
from sanakit.weights import save_transformer
from sanakit.weights.find.resolve import resolve
from sanakit.weights.settings import instruction_of
from sanakit.weights.video.settings import (
    ChunkSettings,
    load_video_configs,
    load_video_settings,
    load_world_configs,
)
from tests.models.video.sana_video2 import written_out as video2
from tests.pipelines.video.tiny import AUTOENCODER, TRANSFORMER, save_tiny


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder as diffusers writes it, of the published shape at 480p."""
    folder = save_tiny(tmp_path_factory.mktemp("plain") / "model", replace(TRANSFORMER, sample_size=30))
    (folder / "sanakit.json").unlink()
    return folder


def told(folder, **defaults):
    (folder / "sanakit.json").write_text(json.dumps({"format": 1, "defaults": defaults}))
    try:
        return load_video_settings(folder)
    finally:
        (folder / "sanakit.json").unlink()


def test_a_published_folder_has_the_published_defaults(plain) -> None:
    settings = load_video_settings(plain)
    shared = settings.shared
    assert (shared.steps, shared.guidance, shared.solver) == (50, 6.0, "dpm")
    assert (shared.width, shared.height, shared.sizes) == (832, 480, trained_sizes(30))
    assert (settings.frames, settings.rate, settings.negative_prompt) == (81, 16, NEGATIVE_PROMPT)
    assert (settings.score("diffusers"), settings.score("native")) == (30, 10)
    assert instruction_of(resolve(plain)) == (VIDEO_INSTRUCTION, 300)


def test_the_shift_is_the_schedulers_and_of_the_scripts_at_480p_7(plain) -> None:
    assert load_video_settings(plain).shared.flow_shift == 8
    native = replace(load_video_settings(plain).shared, dialect="native")
    assert native.shift == 7
    path = plain / "scheduler" / "scheduler_config.json"
    content = path.read_text()
    path.write_text(json.dumps({**json.loads(content), "flow_shift": 3.0}))
    try:
        own = load_video_settings(plain).shared
        assert (own.flow_shift, replace(own, dialect="native").shift) == (3, 3)
    finally:
        path.write_text(content)


def test_a_folder_may_tell_its_own_defaults(plain) -> None:
    settings = told(plain, frames=17, fps="24000/1001", negative_prompt="", motion=0, width=96, height=64)
    assert (settings.frames, settings.rate) == (17, Fraction(24000, 1001))
    assert (settings.negative_prompt, settings.score("native")) == ("", 0)
    assert (settings.shared.width, settings.shared.height) == (96, 64)


@pytest.mark.parametrize(
    ("defaults", "sentence"),
    [
        ({"frames": 0}, "frames = 0; it must be a whole number, 1 to"),
        ({"frames": True}, "frames = True; it must be a whole number"),
        ({"frames": 16}, "frames: A clip of 16 frames has no whole number of latents: use 13 or 17"),
        ({"motion": 101}, "motion = 101; it must be a whole number, 0 to 100"),
        ({"fps": "fast"}, "fps: The rate 'fast' is not a number"),
        ({"negative_prompt": 3}, "negative_prompt = 3; it must be text"),
    ],
)
def test_a_wrong_default_is_told_with_its_file(plain, defaults, sentence) -> None:
    with pytest.raises(WeightsError, match=rf"sanakit.json.*{sentence}"):
        told(plain, **defaults)


def test_sizes_come_without_weights(plain) -> None:
    config, codec = load_video_configs(plain)
    assert config == replace(TRANSFORMER, sample_size=30)
    assert codec == AUTOENCODER


def test_a_transformer_alone_is_not_a_whole_model(plain) -> None:
    with pytest.raises(WeightsError, match="not a video model's whole folder"):
        load_video_settings(plain / "transformer")


def test_an_unknown_autoencoder_is_named(plain) -> None:
    path = plain / "vae" / "config.json"
    content = path.read_text()
    path.write_text(json.dumps({**json.loads(content), "_class_name": "AutoencoderDC"}))
    try:
        with pytest.raises(WeightsError, match=r"vae is not an autoencoder of clips"):
            load_video_settings(plain)
    finally:
        path.write_text(content)


# Causal models


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("causal") / "model", replace(TRANSFORMER, causal=True))
    (folder / "sanakit.json").unlink()
    return folder


def test_a_causal_folder_draws_as_longsana_unless_it_tells_otherwise(causal) -> None:
    assert load_video_settings(causal).chunks == ChunkSettings(
        length=10, times=(1.0, 0.96, 0.889, 0.727), shift=7.0
    )
    own = {"length": 2, "times": [1.0, 0.5], "shift": 3}
    assert told(causal, chunks=own).chunks == ChunkSettings(length=2, times=(1.0, 0.5), shift=3)
    assert told(causal, chunks={"times": None}).chunks.times is None


@pytest.mark.parametrize(
    ("chunks", "sentence"),
    [
        (10, "chunks = 10; it must be an object of length, shift, times"),
        ({"size": 2}, "it must be an object of length, shift, times"),
        ({"length": 0}, "length = 0; it must be a whole number"),
        ({"times": "all"}, "times = 'all'; it must be a list of numbers, or null"),
        ({"times": [0.5, 1.0]}, "times: "),
        ({"times": []}, "times: The few times are"),
        ({"shift": -1}, "shift = -1; it must be a number above 0"),
        ({"shift": 5, "times": None}, "a shift without few times"),
    ],
)
def test_wrong_chunks_are_told_with_their_file(causal, chunks, sentence) -> None:
    with pytest.raises(WeightsError, match=rf"sanakit.json.*{sentence}"):
        told(causal, chunks=chunks)


def test_chunks_of_a_model_of_whole_clips_are_refused(plain) -> None:
    with pytest.raises(WeightsError, match="its transformer is not causal: leave them out"):
        told(plain, chunks={"length": 2})


def test_every_model_of_clips_is_called_one_where_worlds_are_asked_for(plain, tmp_path) -> None:
    later = save_tiny(tmp_path / "later")
    save_transformer(later / "transformer", video2.randomised(video2.TINY))
    for folder in (plain, later):
        with pytest.raises(WeightsError, match="is a model of clips, which no camera path steers"):
            load_world_configs(folder)
