"""`sana evaluate MODEL --reference CLIPS` for worlds: what is printed, kept, and refused before loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sanakit.pipelines.world.world import World
from tests.eval.true_clips import save_scenes
from tests.pipelines.world.tiny import save_world


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_world(tmp_path_factory.mktemp("evaluated") / "model")


@pytest.fixture
def evaluate(sana, model: Path):
    save_scenes(Path("clips"), paths=("d-8", "a-8"))

    def run(*words: object):
        return sana("evaluate", model, *words)

    return run


def test_figures_are_printed_and_kept_and_a_second_run_draws_nothing(evaluate, monkeypatch) -> None:
    words = ("-m", "path-psnr", "-m", "path-retrieval", "--reference", "clips", "--output", "out")
    outcome = evaluate(*words)
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert [line[0] for line in lines[:4]] == ["path-psnr", "other-path", "no-camera", "first-frame"]
    assert lines[0][2:] == ["2", "clips,", "by", "PSNR", "in", "dB"]
    assert "is cut to the shape of 96x64 px, its lens with it" in outcome.err
    monkeypatch.setattr(World, "draw", lambda *_, **__: pytest.fail("it was drawn again"))
    report = json.loads(evaluate(*words, "--json").out)
    assert report == json.loads(Path("out/report.json").read_text())
    assert report["measures"]["path-retrieval"]["details"] == {"chance": 0.5}
    assert report["measures"]["path-psnr"]["value"] == pytest.approx(float(lines[0][1]), rel=1e-3)
    assert report["scenes"] == 1
    assert len(report["weights"]) > 12
    assert evaluate(*words, "--limit", 1).out == outcome.out


def test_a_default_that_changes_is_drawn_by_again(sana, model, monkeypatch, tmp_path) -> None:
    save_scenes(Path("clips"), paths=("d-8", "a-8"))
    copy = shutil.copytree(model, tmp_path / "copy")
    words = ("evaluate", copy, "-m", "drift", "--reference", "clips", "--output", "out")
    drawn, real = [], World.draw

    def counted(self, request, **steered):
        drawn.append(1)
        return real(self, request, **steered)

    monkeypatch.setattr(World, "draw", counted)
    assert sana(*words).code == 0
    count = len(drawn)
    assert count > 0
    assert sana(*words).code == 0
    assert len(drawn) == count
    ours = json.loads((copy / "sanakit.json").read_text())
    ours["defaults"]["guidance"] = 2.0
    (copy / "sanakit.json").write_text(json.dumps(ours))
    assert sana(*words).code == 0
    assert len(drawn) == 2 * count


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-m", "drift"], "pass their folder with --reference"),
        (["-m", "drift", "--reference", "nowhere"], "nowhere does not exist"),
        (["-m", "pose-judge", "--reference", "clips"], "pass their folder with --judge"),
        (["-m", "drift", "--reference", "clips", "--judge", "clips"], "--judge is not used by drift"),
        (["-m", "drift", "-m", "fid", "--reference", "clips"], "fid is not a measure of worlds"),
        (
            ["-m", "drift", "--reference", "clips", "--num-images", 2],
            "--num-images cannot be used with worlds",
        ),
        (
            ["-m", "drift", "--reference", "clips", "--weights", "clip=x"],
            "--weights cannot be used with worlds",
        ),
        (["--judge", "clips"], "--judge is for the measure pose-judge of worlds"),
    ],
)
def test_a_mistake_is_told_before_weights_are_read(evaluate, monkeypatch, words, sentence) -> None:
    monkeypatch.setattr(World, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    outcome = evaluate(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert sentence in outcome.err


def test_a_model_of_images_is_refused(sana) -> None:
    outcome = sana("evaluate", "pocket", "-m", "drift", "--reference", "clips")
    assert outcome.code == 2
    assert "is a model of images, which no camera path steers" in outcome.err
