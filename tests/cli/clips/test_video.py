"""`sana video`: clips of prompts, images and clips; what is printed, and what is refused before loading."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.clips.reading import open_clip
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.weights.find.catalog import CLIP_MODELS
from tests.pipelines.video.tiny import save_embedded, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("video") / "model")


@pytest.fixture
def video(sana, model: Path):
    """Run `sana video` with the tiny model; photo.png and clip.webp lie there."""
    Image.new("RGB", (96, 64), "teal").save("photo.png")

    def run(*words: object):
        return sana("video", "a red apple", "--model", model, "--seed", 7, "--steps", 1, *words)

    return run


def drawn(path: str):
    with open_clip(path) as clip:
        return clip.read()


def test_a_sentence_becomes_a_clip_that_carries_its_settings(video, model) -> None:
    outcome = video("--output", "apple.webp", "--motion", 5, "--fps", 8, "--guidance", 2)
    assert (outcome.code, outcome.out, outcome.err) == (0, "apple.webp  seed 7\n", "")
    clip = drawn("apple.webp")
    assert (clip.frames.shape, clip.rate) == ((9, 64, 96, 3), 8)
    pipe = TextToVideo.from_pretrained(model, device="cpu")
    wanted = pipe("a red apple", steps=1, seed=7, motion=5, guidance=2.0)
    assert clip.settings == wanted.metadata[0]


def test_a_folder_of_frames_holds_the_pixels_that_python_draws(video, model) -> None:
    assert video("--output", "frames", "--frames", 5, "--size", "64x64", "--image", "photo.png").code == 0
    pipe = TextToVideo.from_pretrained(model, device="cpu")
    wanted = pipe(
        "a red apple", image=Image.open("photo.png"), frames=5, width=64, height=64, steps=1, seed=7
    )
    assert np.array_equal(drawn("frames").frames, wanted.frames)


def test_a_clip_is_redrawn_as_far_as_it_goes_and_that_is_told(video) -> None:
    video("--output", "first.webp")
    outcome = video("--clip", "first.webp", "--strength", 0.5, "--frames", 5, "--output", "second.webp")
    assert outcome.code == 0
    assert "first.webp, the first 5 of 9 frames are read" in outcome.err
    clip = drawn("second.webp")
    assert (len(clip.frames), clip.settings["strength"], clip.settings["redraws"]) == (5, 0.5, "a clip")


def test_json_tells_paths_settings_timings_and_warnings(video) -> None:
    outcome = video("--seconds", 0.3, "--num-clips", 2, "--output", "a.gif", "--json")
    report = json.loads(outcome.out)
    assert [clip["path"] for clip in report["clips"]] == ["a-1.gif", "a-2.gif"]
    assert [clip["seed"] for clip in report["clips"]] == [7, 8]
    assert {clip["frames"] for clip in report["clips"]} == {5}
    assert set(report["timings"]) == {"text", "denoise", "decode"}
    assert "5 frames are taken" in report["warnings"][0]
    assert all(f"Warning: {told}" in outcome.err for told in report["warnings"])


def test_short_options_are_those_of_generate_and_a_replaced_file_is_told(sana, model) -> None:
    words = ["video", "a red apple", "--model", model, "--steps", 1, "-s", 7, "-W", 64, "-H", 96, "-n", 2]
    first = sana(*words, "-o", "a.gif")
    assert first.out == "a-1.gif  seed 7\na-2.gif  seed 8\n"
    assert "replaced" not in first.err
    assert drawn("a-1.gif").frames.shape == (9, 96, 64, 3)
    again = sana(*words, "-o", "a.gif")
    assert [line for line in again.err.splitlines() if "replaced" in line] == [
        "a-1.gif is replaced.",
        "a-2.gif is replaced.",
    ]


def test_a_budget_that_is_too_small_is_refused_with_what_would_do(video, monkeypatch) -> None:
    monkeypatch.setattr("sanakit.pipelines.video.memory.resident_bytes", lambda: 10**9)
    outcome = video("--memory", "1MB", "--output", "a.webp")
    assert (outcome.code, outcome.out) == (2, "")
    assert "9 frames of 96x64 px do not fit in 1 MB: allow at least" in outcome.err
    assert not Path("a.webp").exists()
    assert video("--memory", "4GB", "--output", "a.webp").code == 0


def test_without_output_a_new_name_is_chosen(video) -> None:
    pytest.importorskip("av")
    assert video().out == "sana-7.mp4  seed 7\n"
    assert video().out == "sana-7_2.mp4  seed 7\n"


def test_without_pyav_an_mp4_is_refused_before_weights_are_read(video, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(TextToVideo, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    outcome = video()
    assert outcome.code == 2
    assert "sanakit[video]" in outcome.err
    assert ".webp, .gif and folders of frames work" in outcome.err


def test_the_embedded_model_need_not_be_named_and_its_absence_is_told(sana, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", tmp_path / "absent")
    outcome = sana("video", "a red apple")
    assert outcome.code == 2
    assert outcome.err.startswith("Error: The model 'pocket-video' is not in this installation: name another")
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", save_embedded(tmp_path / "model"))
    outcome = sana("video", "a red apple", "--seed", 7, "-o", "apple.gif")
    assert (outcome.code, outcome.out) == (0, "apple.gif  seed 7\n"), outcome.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--frames", 18], "use 17 or 21 frames"),
        (["--frames", 9, "--seconds", 1], "frames and seconds cannot be combined"),
        (["--size", "95x64"], "nearest such size is 96x64"),
        (["--size", "96x64", "--width", 96], "--size and --width or --height cannot be combined"),
        (["--fps", "fast"], "The rate 'fast' is not a number"),
        (["--strength", 0.5], "give the clip, or omit it"),
        (["--image", "photo.png", "--clip", "photo.png"], "photo.png"),
        (["--image", "none.png"], "none.png cannot be read"),
        (["--clip", "none.mp4"], "none.mp4 cannot be read"),
        (["--guidance", -1], "guidance = -1.0, but it must be a finite number of 0 or more; 3 is usual"),
        (["--memory", "much"], "memory = 'much', but it must be"),
        (["--motion", 200], "motion = 200"),
        (["--output", "a.avi"], "a.avi cannot be written: end the name in .mp4"),
        (["--output", "no/a.webp"], "The folder no does not exist"),
        (["--output", "photo.png", "--image", "photo.png"], "photo.png is what it is made from"),
        (["--output", "a.gif", "--fps", 60], "GIF shows at most 50 frames a second"),
    ],
)
def test_a_mistake_is_told_before_weights_are_read(video, monkeypatch, words, sentence) -> None:
    monkeypatch.setattr(TextToVideo, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    outcome = video(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert sentence in outcome.err


def test_a_model_of_images_is_refused_by_name(sana) -> None:
    outcome = sana("video", "a red apple", "--model", "pocket")
    assert outcome.code == 2
    assert "is a model of images" in outcome.err
