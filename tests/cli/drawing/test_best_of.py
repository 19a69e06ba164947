"""`sana best-of` draws, asks the judge, keeps the best and says which they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.images.image import read_metadata


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A judge that likes dark images stands in for CLIP; gives the names it was loaded by."""
    names = []

    def clip_scorer(model: str, *, device: str):
        names.append(model)

        def score(images: list[Image.Image], texts: list[str]) -> list[float]:
            assert texts == ["a fox"] * len(images)
            return [darkness(image) for image in images]

        return score

    monkeypatch.setattr("sanakit.data.annotate.scoring.clip_scorer", clip_scorer)
    return names


def darkness(image: Image.Image) -> float:
    return 255 - float(np.asarray(image, dtype=float).mean())


def test_the_darkest_of_all_is_kept_and_drawn_again_by_its_seed(sana, tiny: Path, asked: list[str]) -> None:
    words = ("a fox", "--model", tiny)
    out = sana(
        "best-of", *words, "--count", 5, "--batch", 2, "--seed", 30, "--judge", "CLIP", "-o", "b.png"
    ).out
    assert asked == ["CLIP"]
    sana("generate", *words, "--num-images", 5, "--seed", 30, "--output", "all.png")
    drawn = {30 + i: darkness(Image.open(f"all-{i + 1}.png")) for i in range(5)}
    best = max(drawn, key=lambda seed: drawn[seed])
    assert out == f"b.png  seed {best}  score {drawn[best]:.2f}\n"
    assert Path(f"all-{best - 29}.png").read_bytes() != Path("b.png").read_bytes()  # the score is in it
    assert Image.open(f"all-{best - 29}.png").tobytes() == Image.open("b.png").tobytes()


def test_several_are_kept_best_first(sana, tiny: Path) -> None:
    words = ("--model", tiny, "--count", 4, "--keep", 2, "--seed", 0, "--output", "b.png", "--json")
    report = json.loads(sana("best-of", "a fox", *words).out)
    assert [image["path"] for image in report["images"]] == ["b-1.png", "b-2.png"]
    scores = [image["score"] for image in report["images"]]
    assert scores == sorted(scores, reverse=True)
    found = read_metadata("b-2.png")
    assert (found["best_of"], found["score"]) == (4, scores[1])
    assert "judge" in report["timings"]


def test_a_plan_quantises_the_model(sana, tiny: Path) -> None:
    words = ("--model", tiny, "--count", 2, "--seed", 0, "--output")
    sana("best-of", "a fox", *words, "whole.png")
    assert sana("best-of", "a fox", *words, "few.png", "--plan", "int4").code == 0
    assert Image.open("whole.png").tobytes() != Image.open("few.png").tobytes()


def test_keeping_more_than_are_drawn_is_refused(sana, tiny: Path) -> None:
    outcome = sana("best-of", "a fox", "--model", tiny, "--num-images", 2, "--keep", 3)
    assert (outcome.code, outcome.out) == (2, "")
    assert "keep" in outcome.err
