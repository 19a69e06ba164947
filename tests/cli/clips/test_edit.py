"""`sana video --edit`: edited clips, what is printed, and what is refused before loading."""

from __future__ import annotations

import json
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import open_clip
from sanakit.pipelines.video.editing.video_to_video import VideoToVideo
from tests.pipelines.video.editing.tiny import save_editor
from tests.pipelines.video.tiny import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_editor(tmp_path_factory.mktemp("editing") / "model")


@pytest.fixture
def edit(sana, model: Path):
    """Run `sana video --edit` with the tiny model; the clip street, a folder of frames, lies there."""
    frames = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    VideoClip(frames=frames, rate=Fraction(12)).save("street")

    def run(*words: object):
        return sana("video", "a street in snow", "--model", model, "--seed", 7, "--edit", "street", *words)

    return run


def drawn(path: str) -> VideoClip:
    with open_clip(path) as clip:
        return clip.read()


def test_a_clip_is_edited_as_python_edits_it_and_carries_its_settings(edit, model) -> None:
    outcome = edit("--size", "48x32", "--motion", 5, "--output", "snow")
    assert (outcome.code, outcome.out) == (0, "snow  seed 7\n")
    left_out, cut = outcome.err.splitlines()
    assert left_out == "Warning: The first 29 of the clip's 30 frames are edited, the others left out."
    assert cut.startswith("Warning: The prompt is too long")
    pipe = VideoToVideo.from_pretrained(model, device="cpu")
    with open_clip("street") as file, warnings.catch_warnings(action="ignore"):
        wanted = pipe("a street in snow", file, width=48, height=32, motion=5, seed=7)
    made = drawn("snow")
    assert np.array_equal(made.frames, wanted.frames)
    assert (made.rate, made.settings) == (12, wanted.settings)
    replaced = edit("--size", "48x32", "--frames", 5, "--output", "snow")
    assert (replaced.code, "snow is replaced." in replaced.err) == (0, True)
    assert len(drawn("snow").frames) == 5


def test_json_tells_the_file_its_settings_and_warnings(edit) -> None:
    outcome = edit("--size", "48x32", "--frames", 9, "--output", "a.webp", "--json")
    report = json.loads(outcome.out)
    assert (report["clips"][0]["path"], report["clips"][0]["fps"]) == ("a.webp", "12")
    assert (report["clips"][0]["frames"], report["clips"][0]["seed"]) == (9, 7)
    assert report["warnings"][0].startswith("The first 9 of the clip's 30 frames")
    assert report["timings"]["chunks"] > 0


def test_a_folder_without_its_rate_is_edited_at_the_rate_that_is_given(edit) -> None:
    (Path("street") / "clip.json").unlink()
    refused = edit("--size", "48x32", "--frames", 5, "--output", "a")
    assert refused.code == 2
    assert "street does not say its frames a second: give the rate (--fps)" in refused.err
    assert edit("--size", "48x32", "--frames", 5, "--fps", 6, "--output", "a").code == 0
    assert drawn("a").rate == 6


@pytest.mark.parametrize("fps", [(), ("--fps", 6)])
def test_a_folder_without_frames_is_not_asked_for_its_rate(edit, fps: tuple[object, ...]) -> None:
    Path("bare").mkdir()
    refused = edit("--edit", "bare", *fps)
    assert refused.code == 2
    assert refused.err.endswith("bare holds no frames: name them 000000.png, 000001.png and so on.\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--frames", 8], "8 frames has no whole number of latents: use 5 or 9"),
        (["--width", 48], "width and height go together"),
        (["--size", "44x32"], "width = 44, but it must be a multiple of 8"),
        (["--size", "48x32", "--height", 32], "--size and --width or --height cannot be combined"),
        (["--steps", 4], "--steps cannot be used with --edit"),
        (["--num-clips", 2], "--num-clips cannot be used with --edit"),
        (["--clip", "street"], "--clip cannot be used with --edit"),
        (["--fps", 8], "an edited clip keeps its own rate"),
        (["--output", "street"], "street is what it is made from"),
        (["--output", "a.avi"], "a.avi cannot be written: end the name in .mp4"),
        (["--memory", "much"], "memory = 'much'"),
        (["--motion", 101], "motion = 101"),
    ],
)
def test_a_mistake_is_told_before_weights_are_read(edit, monkeypatch, words, sentence) -> None:
    monkeypatch.setattr(VideoToVideo, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    outcome = edit(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert sentence in outcome.err


def test_a_budget_that_does_not_suffice_and_other_models_are_refused(edit, sana, tmp_path) -> None:
    refused = edit("--size", "48x32", "--memory", "1MB")
    assert refused.code == 2
    assert "do not fit in 1 MB" in refused.err
    assert not list(Path().glob("sana-7*"))
    other = sana("video", "a fox", "--edit", "street", "--model", save_tiny(tmp_path / "other"))
    assert other.code == 2
    assert "is a model of clips, which edits no clip: use SANA-Streaming" in other.err


def test_processes_that_torchrun_started_do_not_edit_one_clip_each(edit, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    refused = edit("--size", "48x32", "--frames", 5, "--output", "a")
    assert (refused.code, refused.out) == (2, "")
    assert "--edit is for one process: start it without torchrun." in refused.err
    assert not Path("a").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert edit("--size", "48x32", "--frames", 5, "--output", "a").code == 0
