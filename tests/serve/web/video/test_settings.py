"""A clip's settings as a wish, a command line, and read from a dropped clip that anyone may have made."""

from __future__ import annotations

import shlex
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")

from sanakit.clips.clip import VideoClip
from sanakit.errors import SettingsError, SizeError
from sanakit.pipelines.video.request import VideoSpec
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.web.settings import CUSTOM
from sanakit.serve.web.video.settings import (
    ClipWish,
    clip_settings_of,
    command_line,
    frames_label,
    is_distilled,
    most_frames,
    video_size_choices,
    video_sizes,
)

SETTINGS: dict[str, Any] = {
    **{"prompt": "a cat", "negative_prompt": "a dog", "model": "tiny-video", "steps": 2, "guidance": 2.5},
    **{"solver": "euler", "seed": 7, "width": 96, "height": 64, "frames": 5, "motion": 3, "version": "0"},
}


@pytest.fixture
def spec(clip_engine: ClipEngine) -> VideoSpec:
    return clip_engine.specs["tiny-video"]


@pytest.fixture
def distilled(spec: VideoSpec) -> VideoSpec:
    return replace(spec, causal=True)


def saved(folder: Path, **changes: Any) -> Path:
    settings = {name: value for name, value in (SETTINGS | changes).items() if value is not None}
    clip = VideoClip(frames=np.zeros((5, 64, 96, 3), np.uint8), rate=Fraction(8), settings=settings)
    return clip.save(folder / "clip.webp")[0]


def test_a_wish_is_a_request(clip_engine: ClipEngine) -> None:
    wish = ClipWish(
        **{"model": "tiny-video", "prompt": "a cat", "frames": 5, "width": 64, "height": 64, "rate": 8.0},
        **{"motion": 3, "seed": "7", "steps": 2, "guidance": 2.5, "guidance_kind": "", "solver": "euler"},
    )
    drawn = clip_engine.check(**wish.words())
    told = {name: drawn.metadata[0][name] for name in ("prompt", "frames", "motion", "seed", "solver")}
    assert told == {"prompt": "a cat", "frames": 5, "motion": 3, "seed": 7, "solver": "euler"}
    with pytest.raises(SettingsError, match="Write what to draw"):
        replace(wish, prompt=" ").words()
    with pytest.raises(SettingsError, match="seed"):
        replace(wish, seed="many").words()


def test_a_model_offers_its_own_size_first_and_what_it_knows(spec: VideoSpec) -> None:
    assert next(iter(video_sizes(spec).values())) == (96, 64)
    assert all(side % spec.unit == 0 for size in video_sizes(spec).values() for side in size)
    assert video_size_choices(spec)[-1] == CUSTOM
    learned = replace(spec.settings.shared, sizes=((96, 64), (64, 96)))
    fixed = replace(spec, settings=replace(spec.settings, shared=learned))
    assert [*video_sizes(fixed).values()] == [(96, 64), (64, 96)]
    assert CUSTOM not in video_size_choices(fixed)
    assert (most_frames(spec), most_frames(replace(spec, max_positions=5))) == (45, 17)
    assert (frames_label(spec, 9), frames_label(spec, 9, 8)) == ("Frames (0.5 s)", "Frames (1 s)")


def test_a_distilled_model_is_one_with_fixed_times(spec: VideoSpec, distilled: VideoSpec) -> None:
    free = replace(distilled.settings, chunks=replace(distilled.settings.chunks, times=None))
    assert [is_distilled(one) for one in (spec, distilled, replace(distilled, settings=free))] == [
        *(False, True, False)
    ]


def test_the_command_draws_the_clip_again(spec: VideoSpec, distilled: VideoSpec) -> None:
    words = shlex.split(command_line(SETTINGS | {"prompt": "-it's"}, "8", spec))
    assert words[:2] + words[-2:] == ["sana", "video", "--", "-it's"]
    assert {"--frames=5", "--size=96x64", "--fps=8", "--motion=3", "--seed=7", "--negative=a dog"} <= {*words}
    assert not any(word.startswith("--image") for word in words)
    assert "--image=image.png" in command_line(SETTINGS | {"begins_with": "an image"}, "8", spec)
    few = command_line(SETTINGS | {"solver": "few-step"}, "8", distilled)
    assert not {"--steps", "--guidance", "--negative", "--solver"} & {
        word.partition("=")[0] for word in shlex.split(few)
    }


def test_a_dropped_clip_gives_its_settings_and_what_is_missing_is_told(
    clip_engine: ClipEngine, tmp_path: Path
) -> None:
    specs = clip_engine.specs
    found, model, notes = clip_settings_of(saved(tmp_path), specs, "tiny-video")
    assert (found, model, notes) == (SETTINGS | {"rate": 8.0}, "tiny-video", [])
    other = saved(tmp_path, model="sana-video", begins_with="an image", redraws="a clip", dialect="native")
    _, model, notes = clip_settings_of(other, specs, "tiny-video")
    assert model == "tiny-video"
    for words in ("drawn by sana-video", "choose that image again", "sana video --clip", "dialect native"):
        assert any(words in note for note in notes), words


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prompt": None}, "carries no settings"),
        ({"frames": 6}, "use 5 or 9"),
        ({"steps": 0}, "steps"),
        ({"guidance": -1}, "guidance"),
        ({"motion": 101}, "motion"),
        ({"width": 7}, "multiples"),
        ({"width": "wide"}, "size"),
        ({"seed": "x"}, "seed"),
        ({"solver": "scm"}, "solver"),
        ({"guidance_kind": "cat"}, "cat"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(
    clip_engine: ClipEngine, tmp_path: Path, changes: dict[str, Any], error: str
) -> None:
    with pytest.raises((SettingsError, SizeError), match=error):
        clip_settings_of(saved(tmp_path, **changes), clip_engine.specs, "tiny-video")


def test_a_file_that_is_not_a_clip_is_refused(clip_engine: ClipEngine, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    with pytest.raises(SettingsError, match="not a clip"):
        clip_settings_of(tmp_path / "a.mp4", clip_engine.specs, "tiny-video")
