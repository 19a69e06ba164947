"""The sizes, lengths, rate and motion score that a model's clips are trained with."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from sanakit.clips.sizes import trained_sizes
from sanakit.data.batches.clip_sampling import ClipOptions, open_clips, sampling_of
from sanakit.errors import SettingsError
from sanakit.pipelines.video.request import VideoSpec
from tests.data.clip_files import counted


@pytest.fixture(scope="module")
def spec(video_model: Path) -> VideoSpec:
    """Of 4 frames a latent, 16 px a token; 9 frames of 96x64 px are its own."""
    return VideoSpec.read(video_model)


def test_what_is_left_out_is_the_models(spec: VideoSpec) -> None:
    notes: list[str] = []
    sampling = sampling_of(spec, ClipOptions(), None, notes)
    assert (sampling.sizes, sampling.lengths, sampling.rate) == (((64, 96),), (9,), 16)
    published = sampling_of(replace(spec, sample_size=30), ClipOptions(), None, notes)
    assert {(width, height) for height, width in published.sizes} == set(trained_sizes(30))
    assert len(published.sizes) == 11
    assert notes == []


def test_lengths_are_lowered_to_whole_latents_and_told(spec: VideoSpec) -> None:
    notes: list[str] = []
    options = ClipOptions(lengths=(20, 17, 4), rate="23.976", sizes=((32, 64), (64, 32)), repeat=True)
    sampling = sampling_of(spec, options, None, notes)
    assert (sampling.lengths, sampling.rate) == ((1, 17), Fraction(24000, 1001))
    assert (sampling.sizes, sampling.repeat) == (((32, 64), (64, 32)), True)
    assert notes == [
        f"{came} frames make no whole number of latents: {taken} are taken (1 + a multiple of 4)."
        for came, taken in ((20, 17), (4, 1))
    ]


def test_a_resolution_has_the_ratios_of_images(spec: VideoSpec) -> None:
    sizes = sampling_of(spec, ClipOptions(), 256, []).sizes
    assert (256, 256) in sizes
    assert len(sizes) > 5
    assert all(side % 16 == 0 for size in sizes for side in size)
    assert sampling_of(spec, ClipOptions(), 64, [], square=True).sizes == ((64, 64),)


@pytest.mark.parametrize(
    ("options", "resolution", "square", "said"),
    [
        ({"sizes": ((40, 64),)}, None, False, "The size 64x40 does not fit the model"),
        ({"sizes": ((32, 64),)}, 64, False, "Sizes came together with a resolution"),
        ({}, None, True, "The model's size is 96x64: name a resolution, too."),
        ({}, 100, False, "not a multiple of 16"),
        ({"lengths": (0,)}, None, False, "it must be 1 or more"),
        ({"rate": "fast"}, None, False, "is not a number"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], resolution: int | None, square: bool, said: str, spec: VideoSpec
) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        sampling_of(spec, ClipOptions(**options), resolution, [], square=square)


def test_captions_have_the_score_of_the_models_prompts_or_the_given_one(
    spec: VideoSpec, tmp_path: Path
) -> None:
    counted(tmp_path / "a.webp", 3, caption="a disc")
    for own, given, text in ((0, None, "a disc"), (30, None, "a disc motion score: 30."), (30, 0, "a disc")):
        scored = replace(spec, settings=replace(spec.settings, motion=own))
        source = open_clips(tmp_path, scored, ClipOptions(motion=given))
        assert [caption.text for caption in source.captions(0)] == [text]
