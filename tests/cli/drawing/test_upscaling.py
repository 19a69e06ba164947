"""`sana generate --upscale`: sizes, what is told, what a file keeps of it, and by which model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.images.image import read_metadata
from sanakit.pipelines.upscale.lanczos import LANCZOS

QUICK = ("--steps", 1, "--seed", 5)


def test_a_small_model_leaves_it_to_lanczos_and_says_so(sana, tiny: Path) -> None:
    sana("generate", "a fox", "--model", tiny, *QUICK, "-o", "one.png")
    outcome = sana("generate", "a fox", "--model", tiny, *QUICK, "--upscale", 2, "-o", "two.png")
    assert (outcome.code, outcome.out) == (0, "two.png  seed 5\n")
    assert outcome.err.startswith("Warning: tiny did not learn to draw 192x128, so Lanczos enlarges alone: ")
    assert outcome.err.count("\n") == 1
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert np.array_equal(np.asarray(two), np.asarray(one.resize((192, 128), LANCZOS)))
    assert read_metadata("two.png") == read_metadata("one.png") | {"upscale": 2.0, "upscale_strength": 0.0}


def test_a_strength_redraws_each_image_from_its_own_seed(sana, tiny: Path) -> None:
    words = ("--model", tiny, "--steps", 1, "--upscale", 1.5, "--upscale-strength", 1)
    sana("generate", "a fox", *words, "--seed", 5, "-n", 2, "-o", "both.png")
    outcome = sana("generate", "a fox", *words, "--seed", 6, "-o", "second.png")
    assert (outcome.code, outcome.err) == (0, "")
    with (
        Image.open("both-1.png") as first,
        Image.open("both-2.png") as both,
        Image.open("second.png") as alone,
    ):
        assert alone.size == (144, 96)
        assert np.abs(np.asarray(both).astype(int) - np.asarray(alone)).max() <= 1
        assert not np.array_equal(np.asarray(first), np.asarray(alone))


def test_it_is_drawn_again_from_its_file(sana, tiny: Path) -> None:
    words = ("--model", tiny, *QUICK, "--upscale", 2, "--upscale-strength", 1)
    sana("generate", "a fox", *words, "-o", "one.png")
    again = sana("generate", "--from", "one.png", "--model", tiny, "-o", "two.png")
    assert (again.code, again.err) == (0, "")
    assert read_metadata("one.png") == read_metadata("two.png")
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert np.abs(np.asarray(one).astype(int) - np.asarray(two)).max() <= 1
    inspected = sana("inspect", "one.png").out
    assert "made at         96x64" in inspected
    assert "upscale         2.0" in inspected


def test_another_model_enlarges_without_the_first_ones_adapters_and_negative_prompt(
    sana, tiny: Path, sprint: Path
) -> None:
    words = ("--model", tiny, *QUICK, "--upscale", 2, "--upscale-strength", 0.5, "--upscale-model", sprint)
    outcome = sana("generate", "a fox", *words, "--negative", "blue", "-o", "one.png")
    assert (outcome.code, outcome.err) == (0, "")
    found = read_metadata("one.png")
    assert (found["model"], found["upscale_model"], found["negative_prompt"]) == ("tiny", "sprint", "blue")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--upscale", 1), "above 1 and up to 8"),
        (("--upscale", 2, "--upscale-strength", 2), "from 0 (keep) to 1"),
        (("--upscale-model", "pocket"), "--upscale-model needs a factor"),
        (("--upscale-strength", 0.5), "--upscale-strength needs a factor"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(sana, words: tuple[object, ...], told: str) -> None:
    outcome = sana("generate", "a fox", "--model", "nowhere", *words)
    assert outcome.code == 2
    assert told in outcome.err


def test_files_of_prompts_are_not_upscaled(sana) -> None:
    assert (
        "--prompts and --upscale cannot be combined"
        in sana("generate", "--prompts", "a.txt", "--upscale", 2).err
    )
