"""`sana evaluate CLIPS`: what is printed, kept and told of clips in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.alone import alone_in
from sanakit.clips.clip import VideoClip
from sanakit.eval import clip_measures
from tests.eval.metrics.scenes import dark_and_light, grey, square, still


def save(name: str, frames: np.ndarray, rate: int = 8) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    clip = VideoClip(frames=frames, rate=rate)  # pyright: ignore[reportArgumentType]
    clip.save(name, 100 if name.endswith(".webp") else None)


def test_a_folder_of_clips_is_told_clip_by_clip_and_in_the_mean(sana) -> None:
    save("clips/a.webp", still(5))
    save("clips/b.gif", dark_and_light(5))
    out = sana("evaluate", "clips", "-m", "temporal-flicker", "-m", "motion").out
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["temporal-flicker", "0.9", "2", "clips,", "by", "its", "equation"]
    assert lines[1:3] == [["a.webp", "1"], ["b.gif", "0.8"]]
    assert lines[3][:2] == ["motion", "10"]
    assert lines[4:] == [["mean", "10"], ["a.webp", "0"], ["b.gif", "20"]]


def test_without_a_measure_all_are_taken_that_need_no_reference(sana) -> None:
    save("clip.webp", square(3))
    outcome = sana("evaluate", "clip.webp", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(outcome.out)
    assert list(report["measures"]) == list(clip_measures.ALONE)
    assert report["measures"]["motion-smoothness"]["each"]["clip.webp"]["value"] == 1
    assert report["measures"]["background-consistency"]["by"] == "pocket-clip"


def test_what_is_left_out_or_does_not_compare_is_told_and_in_the_report(sana) -> None:
    save("clips/a.webp", still(3))
    save("clips/b", square(3), 12)
    save("clips/c.gif", grey(1))
    Image.new("RGB", (8, 8)).save("clips/d.png")
    outcome = sana("evaluate", "clips", "-m", "still-flicker", "-o", "out")
    told = [line.removeprefix("Warning: ") for line in outcome.err.splitlines()]
    assert [line.partition(":")[0] for line in told] == [
        "Left out, as they are not clips",
        "Not counted in still-flicker, for fewer than 2 frames",
        "The clips have different sizes",
        "The clips have different rates",
    ]
    report = json.loads(Path("out/report.json").read_text())
    assert report["notes"] == told
    assert report["measures"]["still-flicker"]["each"] == {"a.webp": {"value": 0}, "b": {"value": 0}}


def test_results_are_kept_in_the_output_folder(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    save("clips/a.webp", still(3))
    words = ("evaluate", "clips", "-m", "motion", "-o", "out", "--json")
    first = sana(*words).out
    assert sorted(path.name for path in Path("out").iterdir()) == ["motion.jsonl", "report.json"]
    monkeypatch.setattr(clip_measures, "_load", lambda *_: pytest.fail("measured again"))
    assert sana(*words).out == first


def test_a_second_evaluation_into_the_same_folder_at_once_is_refused(sana) -> None:
    pytest.importorskip("fcntl")
    save("clips/a.webp", still(3))
    with alone_in(Path("out")):  # by another process
        refused = sana("evaluate", "clips", "-m", "motion", "-o", "out")
    assert refused.code == 2
    assert "Another process is writing out: wait until it ends" in refused.err


def test_clips_among_images_are_named(sana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanakit.eval.measures._load", lambda *_: lambda images, cases: [1.0] * len(images))
    save("both/b.gif", still(3))
    Image.new("RGB", (8, 8)).save("both/a.png")
    Path("both/a.txt").write_text("a red apple")
    outcome = sana("evaluate", "--images", "both", "-m", "clip-score")
    assert outcome.err == ("Warning: Clips are left out: b.gif. Measure them with `sana evaluate both`.\n")
    assert outcome.code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clips", "-m", "fid"], "no measure 'fid' of clips"),
        (["clips", "-m", "motion", "-m", "clip-score"], "no measure 'clip-score' of clips"),
        (["pocket", "-m", "motion"], "pocket does not exist: check the path of the clips"),
        (["-m", "motion"], "name the folder of clips"),
        (["--images", "clips", "-m", "motion"], "--images cannot be used with clips"),
        (["clips", "--prompts", "x", "--limit", "3"], "--prompts and --limit cannot be used with clips"),
        (["clips", "--seed", "3"], "--seed cannot be used with clips"),
        (["clips", "-m", "dynamic-degree"], "pass their folder with --reference"),
        (["clips", "--reference", "clips"], "--reference is not used by"),
        (["clips", "-m", "motion", "--weights", "clip=x"], "--weights clip=... is not used"),
        (["clips", "--weights", "clop=x"], "'clop'"),
        (["cut", "-m", "motion"], "cut/a.webp is damaged"),
    ],
)
def test_mistakes_are_told_in_a_sentence(sana, words: list[str], message: str) -> None:
    save("clips/a.webp", still(3))
    Path("cut").mkdir()
    Path("cut/a.webp").write_bytes(Path("clips/a.webp").read_bytes()[:900])
    outcome = sana("evaluate", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
