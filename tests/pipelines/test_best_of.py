"""The best of many images: the right ones, whatever the batch, and few held at a time."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import read_metadata, save
from sanakit.pipelines.best_of import BestOf, Tournament
from sanakit.pipelines.text_to_image import TextToImage

PROMPT = "a red apple"
SEED = 40
COUNT = 7


def brightness(image: Image.Image) -> float:
    return float(np.asarray(image, dtype=float).mean())


def judge(prompt: str, images: list[Image.Image]) -> list[float]:
    assert prompt == PROMPT
    return [brightness(image) for image in images]


def brighter(prompt: str, one: Image.Image, other: Image.Image) -> bool:
    return brightness(one) > brightness(other)


@pytest.fixture(scope="module")
def expected(pipe: TextToImage) -> list[int]:
    """Seeds of all images, brightest first."""
    drawn = pipe(PROMPT, seed=SEED, num_images=COUNT)
    values = [brightness(image) for image in drawn.images]  # pyright: ignore[reportArgumentType] - PIL
    order = sorted(zip(values, drawn.seeds, strict=True), reverse=True)
    assert len({value for value, _ in order}) == COUNT
    return [seed for _, seed in order]


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("how", [judge, Tournament(brighter)], ids=["scores", "tournament"])
def test_the_best_are_those_of_drawing_all_and_sorting(pipe, expected: list[int], batch: int, how) -> None:
    best = BestOf(pipe, how, batch=batch)(PROMPT, count=COUNT, keep=3, seed=SEED)
    assert best.seeds == expected[:3]
    assert [image.size for image in best.images] == [(96, 64)] * 3  # pyright: ignore


def test_a_trial_shows_the_best_of_every_smaller_count(pipe) -> None:
    trials = list(BestOf(pipe, judge, batch=4).stream(PROMPT, count=COUNT, seed=SEED))
    assert [trial.index for trial in trials] == list(range(1, COUNT + 1))
    assert [trial.seed for trial in trials] == list(range(SEED, SEED + COUNT))
    scores = [trial.score or 0.0 for trial in trials]
    for trial in trials:
        assert trial.best[0].score == max(scores[: trial.index])
    assert [trial.result is None for trial in trials] == [True] * (COUNT - 1) + [False]


def test_only_the_best_and_one_batch_are_held(pipe) -> None:
    alive: list[weakref.ref] = []
    held = []

    def watch(prompt: str, images: list[Image.Image]) -> list[float]:
        gc.collect()
        held.append(sum(reference() is not None for reference in alive))
        alive.extend(weakref.ref(image) for image in images)
        return judge(prompt, images)

    for trial in BestOf(pipe, watch, batch=2).stream(PROMPT, count=8, keep=1, seed=SEED):
        del trial
    assert held == [0, 1, 1, 1]


def test_what_is_not_asked_for_is_never_drawn(pipe) -> None:
    calls = []
    stream = BestOf(pipe, lambda prompt, images: calls.append(len(images)) or [0.0] * len(images), batch=2)
    trials = stream.stream(PROMPT, count=100, seed=0)
    next(trials)
    trials.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert calls == [2]


def test_of_equals_the_first_stays_ahead(pipe) -> None:
    best = BestOf(pipe, lambda prompt, images: [1.0] * len(images), batch=2)
    assert best(PROMPT, count=5, keep=2, seed=3).seeds == [3, 4]


def test_a_picture_carries_its_score_and_can_be_drawn_again(pipe, tmp_path: Path) -> None:
    best = BestOf(pipe, judge, batch=3)(PROMPT, count=5, seed=SEED, steps=2, guidance=2.0)
    path = save(best.images[0], tmp_path / "best.png", best.metadata[0])  # pyright: ignore[reportArgumentType]
    found = read_metadata(path)
    assert found["best_of"] == 5
    assert found["score"] == pytest.approx(brightness(Image.open(path)))
    again = pipe(PROMPT, seed=found["seed"], steps=found["steps"], guidance=found["guidance"]).images[0]
    assert np.abs(np.asarray(again, int) - np.asarray(Image.open(path), int)).max() <= 1
    assert {"text", "denoise", "decode", "judge"} == set(best.timings)


def test_numbers_of_numpy_are_numbers(pipe) -> None:
    words = {"count": np.int64(2), "keep": np.int32(1), "seed": np.int64(SEED)}
    numpy = BestOf(pipe, judge, batch=np.int64(2))(PROMPT, **words)
    plain = BestOf(pipe, judge, batch=2)(PROMPT, count=2, keep=1, seed=SEED)
    assert json.dumps(numpy.metadata) == json.dumps(plain.metadata)


def test_the_recipe_of_text_to_image_says_what_draws_a_chosen_picture_again(pipe, tmp_path: Path) -> None:
    best = BestOf(pipe, judge)(PROMPT, count=2, seed=SEED)
    settings = read_metadata(save(best.images[0], tmp_path / "best.png", best.metadata[0]))
    settings = {name: value for name, value in settings.items() if name not in ("model", "version")}
    with pytest.raises(SettingsError, match="`sana generate`, or by this call without best_of and score"):
        pipe(**settings)
    again = pipe(**{name: settings[name] for name in settings if name not in ("best_of", "score")})
    assert np.abs(np.asarray(again.images[0], int) - np.asarray(best.images[0], int)).max() <= 1


def test_a_tournament_tells_no_score(pipe) -> None:
    best = BestOf(pipe, Tournament(brighter))(PROMPT, count=2, seed=SEED)
    assert "score" not in best.metadata[0]
    assert best.metadata[0]["best_of"] == 2


def test_a_tournament_for_the_best_one_compares_each_picture_once(pipe) -> None:
    compared = []
    prefer = Tournament(lambda prompt, one, other: compared.append(1) or brighter(prompt, one, other))
    BestOf(pipe, prefer, batch=3)(PROMPT, count=COUNT, seed=SEED)
    assert len(compared) == COUNT - 1


@pytest.mark.parametrize("scores", [[1.0], [float("nan")] * 2], ids=["too few", "not a number"])
def test_a_judge_that_gives_no_score_each_is_refused(pipe, scores: list[float]) -> None:
    with pytest.raises(SettingsError, match="for 2 images"):
        BestOf(pipe, lambda prompt, images: scores)(PROMPT, count=2)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [({"count": 0}, "count"), ({"count": 2, "keep": 3}, "keep"), ({"count": 2, "seed": -1}, "seed")],
)
def test_settings_out_of_range_are_refused_before_any_work(pipe, words: dict, wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong):
        BestOf(pipe, judge).stream(PROMPT, **words)


def test_several_prompts_are_refused(pipe) -> None:
    with pytest.raises(SettingsError, match="one prompt"):
        BestOf(pipe, judge).stream([PROMPT], count=2)  # pyright: ignore[reportArgumentType]
