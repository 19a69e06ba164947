"""The sizes that published video models were trained at are those of diffusers' tables."""

from __future__ import annotations

import pytest

from sanakit.clips.sizes import trained_sizes, usual_size


@pytest.mark.parametrize(("sample_size", "name"), [(30, "480"), (22, "720")])
def test_they_are_those_of_diffusers(sample_size, name) -> None:
    from diffusers.pipelines.sana_video import pipeline_sana_video

    table = getattr(pipeline_sana_video, f"ASPECT_RATIO_{name}_BIN").values()
    assert list(trained_sizes(sample_size)) == [(int(width), int(height)) for height, width in table]


@pytest.mark.parametrize(("sample_size", "unit"), [(30, 16), (22, 32)])
def test_sides_are_whole_tokens_and_the_usual_size_is_one_of_them(sample_size, unit) -> None:
    assert not any(side % unit for size in trained_sizes(sample_size) for side in size)
    assert usual_size(sample_size, unit) in trained_sizes(sample_size)
    assert usual_size(sample_size, unit)[1] == sample_size * unit


def test_other_models_tell_no_sizes() -> None:
    assert trained_sizes(16) == ()
    assert usual_size(8, 8) == (64, 64)
