"""What measures of images have no use for is named before anything is drawn or loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.pocket.evaluate import report
from tests.pipelines.video.tiny import save_tiny
from tests.pipelines.world.tiny import save_world


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "evaluate_pocket", lambda *_, **__: pytest.fail("drawn"))


@pytest.mark.parametrize(
    "words",
    [
        *(["--prompts", "a.txt"], ["--reference", "real"], ["--questions", "a.csv"], ["--seed", "5"]),
        *(["--num-images", "2"], ["--limit", "3"], ["--device", "cpu"], ["--weights", "clip=x"]),
        ["--endpoint", "http://localhost:1"],
    ],
)
def test_an_option_that_recognition_does_not_use_is_named(sana, words: list[str]) -> None:
    outcome = sana("evaluate", "pocket", *words)
    assert outcome.code == 2
    assert f"{words[0]} is not used by recognition: leave it out." in outcome.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--reference", "real"], "--reference is not used by clip-score or image-reward"),
        (["--questions", "a.csv"], "--questions is not used by"),
        (["--endpoint", "http://localhost:1"], "--endpoint is not used by"),
        (["--weights", "vqa=x"], "--weights vqa=... is not used by"),
        (["--seed", "5"], "--seed is of images that are drawn: leave it out with --images"),
    ],
)
def test_an_option_of_another_measure_is_named(sana, words: list[str], told: str) -> None:
    Path("pictures").mkdir()
    measures = ("-m", "clip-score", "-m", "image-reward")
    outcome = sana("evaluate", "--images", "pictures", *measures, *words)
    assert (outcome.code, told in outcome.err) == (2, True), outcome.err


def test_options_of_one_of_several_measures_are_taken(sana) -> None:
    words = ("-m", "pocket-eval", "-m", "clip-score", "--seed", 5, "--limit", 2, "--device", "cpu")
    assert "give them with --prompts" not in sana("evaluate", "nowhere", *words).err
    assert "no model named 'nowhere'" in sana("evaluate", "nowhere", *words).err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("path-psnrr", "'path-psnrr': did you mean path-psnr? All are recognition, "),
        ("motoin", "did you mean motion?"),
        ("clipscore", "did you mean clip-score?"),
        ("xyz", "There is no measure 'xyz': use recognition, pocket-eval"),
    ],
)
def test_a_misspelt_measure_of_any_kind_has_its_nearest(sana, name: str, told: str) -> None:
    outcome = sana("evaluate", "pocket", "-m", name)
    assert (outcome.code, told in outcome.err) == (2, True), outcome.err


def test_models_of_clips_and_worlds_are_sent_to_their_measures(sana, tmp_path: Path) -> None:
    clips, world = save_tiny(tmp_path / "clips"), save_world(tmp_path / "world")
    assert "measure a model that `sana train pocket-video` made" in sana("evaluate", clips).err
    outcome = sana("evaluate", world, "-m", "clip-score", "--prompts", "a.txt")
    assert "name measures of worlds, such as -m path-retrieval" in outcome.err
