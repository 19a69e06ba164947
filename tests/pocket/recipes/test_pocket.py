"""`sana train pocket --smoke`: every stage of the recipe, two small steps each, on made-up shapes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit import TextToImage
from sanakit.errors import DataError, SettingsError
from sanakit.pocket.data import toy
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.evaluate.judge import load_judge
from sanakit.pocket.evaluate.pocket_eval import KINDS
from sanakit.pocket.recipes import RECIPES, pocket
from sanakit.pocket.train import clip, drawings, judge, runs
from sanakit.pocket.train.words_run import taught_encoder
from sanakit.train.feeds.images import Crops
from sanakit.train.objectives.autoencoder import AutoencoderObjective, autoencoder_state
from sanakit.train.run import averaged_weights, run_recipe
from sanakit.train.state.checkpoint import open_checkpoint
from sanakit.weights import (
    describe,
    load_autoencoder,
    load_clip,
    load_settings,
    load_text_encoder,
    load_transformer,
)

pytestmark = pytest.mark.thorough

STAGES = ("autoencoder", "decoder", "words", "drawings", "clip", "judge")


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Fewer shapes, images to measure on and images of sheets, and no TensorBoard: the way is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "THINGS", 12)
        patch.setattr(drawings, "SHEET", drawings.SHEET[:3])
        patch.setattr(drawings, "WATCHED_SCENES", 8)
        patch.setattr(clip, "HELD_OUT_PAIRS", 12)
        patch.setattr(judge, "QUESTIONS", 10)
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        yield


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The autoencoder as it is drawn: what it starts as has its own tests."""
    monkeypatch.setattr(runs, "start_linear", lambda model, images: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.build_toy(tmp_path_factory.mktemp("data") / "pocket")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the whole recipe."""
    runs = tmp_path_factory.mktemp("runs")
    progress = list(run_recipe("pocket", RECIPES, data=data, output=runs, smoke=True))
    assert [line.step for line in progress if line.step == line.total] == [2] * len(STAGES)
    return runs


def test_the_finished_model_draws_with_its_own_defaults(trained: Path, data: Path):
    model = trained / "pocket-drawings" / "model"
    settings = load_settings(model)
    assert settings.name == "pocket"
    assert {name: getattr(settings, name) for name in pocket.DEFAULTS} == pocket.DEFAULTS
    assert settings.flow_shift == pocket.SHIFT
    assert describe(model).known_things == len({row.concept for row in open_pocket(data).rows})
    assert {name: getattr(settings, name) for name in pocket.OFFERS} == pocket.OFFERS
    picture = TextToImage.from_pretrained(model)("two red apples", steps=2, output="pt").images
    assert picture.shape == (1, 3, 256, 256)
    assert torch.isfinite(picture).all()


def test_the_embedded_model_offers_what_the_recipe_writes():
    settings = load_settings("pocket")
    for name in ("styles", "example_prompts"):
        assert getattr(settings, name) == pocket.OFFERS[name]
    assert set(settings.sizes) <= set(pocket.OFFERS["sizes"])  # version 3 learned the square alone


def test_the_model_has_the_encoder_that_was_taught_words(trained: Path):
    model = trained / "pocket-drawings" / "model"
    taught = taught_encoder(trained / "pocket-words", pocket.TEXT_ENCODER).model.state_dict()
    for name, weight in load_text_encoder(model, dtype="float32").model.state_dict().items():
        torch.testing.assert_close(weight, taught[name], atol=1e-3, rtol=1e-3)
    assert load_transformer(model).config == pocket.TRANSFORMER


def test_drawings_go_on_from_another_model(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its transformer is taken over: only the caption projection is another one."""
    monkeypatch.setattr(drawings, "FURTHER_CONCEPTS", {})
    (tmp_path / "pocket-words").symlink_to(trained / "pocket-words")
    run = pocket.drawings(data, tmp_path / "pocket-drawings", source="pocket", smoke=True)
    started = run.objective.model.get_submodule("transformer").state_dict()
    for name, weight in load_transformer("pocket", dtype="float32").state_dict().items():
        if not name.startswith("y_embedder.y_proj.fc1"):
            torch.testing.assert_close(started[name], weight, rtol=0, atol=0)
    told = " ".join(run.notes)
    for words in ("no further designs", "reads another text encoder"):
        assert words in told


def test_drawings_go_on_from_their_own_result_without_a_change(data: Path, trained: Path, tmp_path: Path):
    """Its text encoder is kept, its time is t already: not a weight is another one before the first step."""
    model = trained / "pocket-drawings" / "model"
    run = pocket.drawings(data, tmp_path / "pocket-drawings", source=str(model), smoke=True)
    assert [f"the text encoder of {model} is kept" in note for note in run.notes] == [False, True]
    started = run.objective.model.get_submodule("transformer").state_dict()
    for name, weight in load_transformer(model, dtype="float32").state_dict().items():
        torch.testing.assert_close(started[name], weight, rtol=0, atol=0)


def test_drawings_do_not_go_on_from_another_architecture(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Refused before anything is encoded."""
    deeper = replace(pocket.TRANSFORMER, depth=pocket.TRANSFORMER.depth + 1)
    monkeypatch.setattr(pocket, "TRANSFORMER", deeper)
    model = trained / "pocket-drawings" / "model"
    with pytest.raises(SettingsError, match="another transformer"):
        pocket.drawings(data, tmp_path / "pocket-drawings", source=model, smoke=True)
    assert not (tmp_path / "pocket-drawings" / "pool").exists()


def test_the_decoder_that_was_trained_last_is_in_the_model(trained: Path):
    expected = autoencoder_state(averaged_weights(trained / "pocket-decoder"))["decoder.conv_in.weight"]
    model = trained / "pocket-drawings" / "model"
    shipped = load_autoencoder(model).state_dict()["decoder.conv_in.weight"]
    torch.testing.assert_close(shipped.float(), expected, atol=1e-3, rtol=1e-3)


def test_judge_and_clip_can_be_asked(trained: Path):
    judge, notes = load_judge(trained / "pocket-judge" / "model")
    assert {question["kind"] for question in notes["questions"]} == set(KINDS)
    assert set(notes["accuracy"]) == {*KINDS, "all"}
    assert judge.look(torch.zeros(1, 3, 256, 256)) is not None
    scores = load_clip(trained / "pocket-clip" / "model").scores(torch.zeros(1, 3, 256, 256), ["a fox"])
    assert scores.shape == (1,)


def test_each_stage_leaves_a_sheet_a_log_and_a_checkpoint(trained: Path):
    for name in STAGES:
        run = trained / f"pocket-{name}"
        assert (run / "sheets" / "0000002.png").is_file()
        assert json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
        saved = open_checkpoint(run)
        assert saved is not None
        assert saved.step == 2


def test_a_finished_recipe_is_resumed_without_another_step(data: Path, trained: Path):
    assert list(run_recipe("pocket", RECIPES, data=data, output=trained, smoke=True, resume=True)) == []


def test_without_a_data_set_the_smoke_makes_one_up(tmp_path: Path, no_start: None):
    first = pocket.pocket(tmp_path / "none", tmp_path / "run", smoke=True)[0]
    assert first.make(tmp_path / "run" / "pocket-autoencoder").config.steps == 2
    assert (tmp_path / "run" / "toy" / "alpha.npy").is_file()
    with pytest.raises(DataError, match="sana data pocket"):
        pocket.pocket(tmp_path / "none", tmp_path / "other")[0].make(tmp_path / "other")


def test_a_run_is_not_overwritten_without_being_asked_to_resume(data: Path, trained: Path):
    with pytest.raises(SettingsError, match="resume"):
        next(
            run_recipe(
                "pocket-autoencoder", RECIPES, data=data, output=trained / "pocket-autoencoder", steps=2
            )
        )


def test_a_stage_without_its_predecessor_says_so(data: Path, tmp_path: Path):
    with pytest.raises(DataError, match="pocket-words"):
        next(run_recipe("pocket-drawings", RECIPES, data=data, output=tmp_path / "pocket-drawings"))


def test_an_unknown_recipe_lists_the_known_ones(data: Path, tmp_path: Path):
    with pytest.raises(
        SettingsError, match="pocket-autoencoder, pocket-decoder, pocket-words, pocket-drawings"
    ):
        next(run_recipe("xyz", RECIPES, data=data, output=tmp_path / "x"))


def test_another_number_of_steps_moves_the_change_to_whole_pictures(
    data: Path, tmp_path: Path, no_start: None
):
    for steps, whole_from in ((None, 4250), (100, 85)):
        objective = pocket.autoencoder(data, tmp_path / "pocket-autoencoder", steps).objective
        assert isinstance(objective, AutoencoderObjective)
        assert isinstance(objective.images, Crops)
        assert objective.images.whole_from == whole_from
