"""`sana evaluate MODEL` for a model of clips: what is printed, kept and refused; the measuring is made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import describe_clip
from sanakit.pocket.data.clips.toy import build_toy_clips
from sanakit.pocket.evaluate import video
from sanakit.pocket.evaluate.recognition import Shares
from sanakit.pocket.evaluate.video import RealFigures, VideoReport
from sanakit.weights.find.catalog import CLIP_MODELS
from tests.pipelines.video.tiny import save_embedded, save_tiny

REPORT = VideoReport(
    model="pocket-video",
    seed=3,
    steps=16,
    guidance=3.0,
    prompts=100,
    things=97,
    recognised=Shares(0.42, 0.81),
    motion=1.23,
    still_flicker=0.045,
    real=None,
    seconds_per_clip=1.5,
    not_recognised=("a fox",),
)
REAL = RealFigures(
    ceiling=Shares(0.66, 0.89),
    dynamic_degree=1.01,
    still_flicker=0.96,
    first_frame=27.49,
    first_frame_ceiling=27.5,
    autoencoder=24.54,
    autoencoder_flicker=0.866,
)


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict]:
    """Calls of the measuring, which draws two clips; pocket-video is a tiny model."""
    calls: list[dict] = []

    def measure(model: str, clips: object, *, keep, progress, **asked: object) -> VideoReport:
        calls.append({"model": model, "real": clips is not None, **asked})
        for number in range(2):
            frames = np.full((5, 16, 16, 3), 100 * number, np.uint8)
            keep(number, VideoClip(frames=frames, rate=8, settings={"prompt": "a fox"}))
        return replace(REPORT, real=REAL) if clips is not None else REPORT

    monkeypatch.setattr(video, "evaluate_video", measure)
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", save_embedded(tmp_path / "pocket_video"))
    return calls


def test_the_figures_are_printed(sana, measuring) -> None:
    outcome = sana("evaluate", "pocket-video", "--seed", 3, "--limit", 5)
    assert outcome.code == 0, outcome.err
    assert measuring == [{"model": "pocket-video", "real": False, "seed": 3, "limit": 5, "device": "auto"}]
    assert "middle frames recognised, of 100 prompts for 97 animated things:" in outcome.out
    assert "clips that the model drew           top-1  42.0%  top-5  81.0%" in outcome.out
    assert "1.23 %, 0.045 %" in outcome.out
    assert outcome.out.endswith("1.50 s a clip\n")


def test_with_real_clips_all_that_is_compared_is_printed_and_kept(sana, measuring) -> None:
    build_toy_clips(Path("real"))
    words = ("evaluate", "pocket-video", "-m", "recognition", "--reference", "real", "-o", "out")
    printed = sana(*words).out
    for text in ("66.0%  top-5  89.0%", "1.01", "0.96", "27.49 dB (the autoencoder alone 27.50)"):
        assert text in printed
    assert "24.54 dB, flicker 0.866" in printed
    report = json.loads(Path("out/report.json").read_text())
    assert report["measures"]["recognition"]["real"]["dynamic_degree"] == 1.01
    assert report["weights"].startswith("sampled-")
    clip = describe_clip("out/clips/001.webp")
    assert clip is not None
    assert (clip.frames, clip.settings["prompt"]) == (5, "a fox")
    assert Image.open("out/sheet.png").size == (15 * 96, 96)
    assert json.loads(sana(*words, "--json").out) == report


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-m", "fid"), "fid does not measure a model of clips"),
        (("-m", "dynamic-degree"), "dynamic-degree does not measure a model of clips"),
        (("--prompts", "a.txt"), "--prompts cannot be used with a model of clips"),
        (("--weights", "clip=x"), "--weights cannot be used with a model of clips"),
        (("--reference", "nowhere"), "nowhere"),
    ],
)
def test_what_is_not_for_models_of_clips_is_refused(sana, measuring, words, sentence) -> None:
    outcome = sana("evaluate", "pocket-video", *words)
    assert (outcome.code, measuring) == (2, [])
    assert sentence in outcome.err


def test_a_folder_of_a_model_is_measured_as_its_name_is(sana, measuring) -> None:
    folder = save_tiny(Path("model"))
    assert sana("evaluate", folder).code == 0
    assert measuring[0]["model"] == str(folder)
