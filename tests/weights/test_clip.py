"""CLIP folders: what transformers saved opens here, what is saved here opens in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from sanakit.errors import ModelNotFoundError, OutputError, SettingsError, WeightsError
from sanakit.models.clip import Clip, ClipConfig, TowerConfig
from sanakit.text.clip import ClipScorer, Preprocessing, train_clip_tokenizer
from sanakit.weights import load_clip, save_clip

FastTokenizer: Any = transformers.CLIPTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]
TEXTS = ["a red apple", "Two  dogs'  café, 12 €!", "", "cat " * 40, "\u4e00 panda's \U0001f43c"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    torch.manual_seed(0)
    tokenizer = train_clip_tokenizer(["a red apple", "two dogs and a cat", "a panda's café"] * 9, 1024)
    size = tokenizer.get_vocab_size()
    config = ClipConfig(
        vision=TowerConfig(width=32, depth=2, heads=4, mlp_width=48),
        text=TowerConfig(width=24, depth=2, heads=3, mlp_width=40, activation="gelu"),
        image_size=32,
        patch_size=8,
        vocab_size=size,
        max_tokens=12,
        eos_token=size - 1,
        embed_width=16,
    )
    model = Clip(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ClipScorer(model.eval(), tokenizer, Preprocessing(size=32, crop=(32, 32)))


@pytest.fixture(scope="module")
def folder(scorer: ClipScorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip") / "model", scorer)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The folder again, to be damaged."""
    place = tmp_path / "model"
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


def picture(width: int, height: int) -> np.ndarray:
    """Coarse colours, H W 3 uint8: enlarged from 6 x 6 random ones."""
    random = np.random.default_rng(3).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC))


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_saved_and_loaded_again_gives_the_same_vectors(scorer, folder):
    again = load_clip(folder)
    images = torch.rand(3, 3, 40, 60) * 2 - 1
    assert torch.equal(again.texts(TEXTS), scorer.texts(TEXTS))
    assert torch.equal(again.images(images), scorer.images(images))


def test_transformers_opens_the_folder_and_gives_the_same_vectors(scorer, folder):
    loaded: Any = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    model, told = loaded
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = FastTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    tokens = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert tokens.input_ids.tolist() == scorer.tokenize(TEXTS).tolist()
    texts = F.normalize(model.eval().get_text_features(**tokens).pooler_output)
    assert (texts - scorer.texts(TEXTS)).abs().max() < TOLERANCE
    pixels = picture(90, 60)
    values = processor(Image.fromarray(pixels), return_tensors="pt").pixel_values
    theirs = F.normalize(model.get_image_features(values).pooler_output)
    # Two resamplings that agree to one of 256 levels: 0.02 of a normalised value at most.
    assert (values - scorer.preprocessing(as_tensor(pixels))).abs().max() < 0.02
    assert (theirs - scorer.images(as_tensor(pixels))).abs().max() < 0.02


def test_a_folder_that_transformers_saved_opens_here(folder, tmp_path, scorer):
    model = transformers.CLIPModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert torch.equal(load_clip(tmp_path).texts(TEXTS), scorer.texts(TEXTS))


def test_the_position_numbers_of_older_folders_are_skipped_by_name_and_nothing_else(copy, scorer):
    weights = load_file(copy / "model.safetensors")
    numbers = {
        f"{tower}_model.embeddings.position_ids": torch.arange(9)[None] for tower in ("text", "vision")
    }
    save_file({**weights, **numbers}, copy / "model.safetensors")
    assert torch.equal(load_clip(copy).texts(TEXTS), scorer.texts(TEXTS))
    save_file({**weights, "text_model.odd": torch.zeros(1)}, copy / "model.safetensors")
    with pytest.raises(WeightsError, match=r"text_model\.odd"):
        load_clip(copy)
    del weights["logit_scale"]
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(WeightsError, match="logit_scale"):
        load_clip(copy)


def test_a_legacy_folder_is_read_at_the_highest_token(copy, scorer):
    config = json.loads((copy / "config.json").read_text())
    edit(copy / "config.json", text_config=config["text_config"] | {"eos_token_id": 2})
    assert torch.equal(load_clip(copy).texts(TEXTS), scorer.texts(TEXTS))


def test_16_bits_change_the_vectors_by_rounding_only(scorer, tmp_path):
    place = save_clip(tmp_path / "half", scorer, dtype="float16")
    assert load_file(place / "model.safetensors")["logit_scale"].dtype == torch.float16
    cosines = (load_clip(place).texts(TEXTS) * scorer.texts(TEXTS)).sum(1)
    assert cosines.min() > 0.9999


def test_scores_are_a_hundred_cosines_and_never_negative(scorer):
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cosines = (scorer.images(images) * scorer.texts(TEXTS)).sum(1)
    assert torch.allclose(scorer.scores(images, TEXTS), (100 * cosines).clamp(min=0), atol=1e-3)
    with pytest.raises(SettingsError, match="2 texts came for 5"):
        scorer.scores(images, TEXTS[:2])
    with pytest.raises(SettingsError, match="list"):
        scorer.texts("a red apple")


def test_no_texts_and_no_pictures_give_no_vectors(scorer):
    assert scorer.texts([]).shape == (0, 16)
    assert scorer.images(torch.zeros(0, 3, 8, 8)).shape == (0, 16)


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (31, 77)])
@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        {"size": 36, "crop_size": 30},
        {"size": {"height": 24, "width": 40}, "do_center_crop": False, "resample": 2},
    ],
)
def test_pictures_are_prepared_as_transformers_does(settings, size):
    theirs = transformers.CLIPImageProcessor(**settings)
    pixels = picture(*size)
    expected = theirs(Image.fromarray(pixels), return_tensors="pt").pixel_values
    given = Preprocessing.from_transformers(settings)(as_tensor(pixels))
    assert given.shape == expected.shape
    assert (given - expected).abs().max() < 0.02  # one level of 256


def test_preprocessing_comes_back_from_transformers_spelling():
    for one in (
        Preprocessing(size=32, crop=(32, 32)),
        Preprocessing(size=(8, 9), crop=None, resample="bilinear"),
    ):
        assert Preprocessing.from_transformers(one.to_transformers()) == one


@pytest.mark.parametrize(
    "change", [{"do_normalize": False}, {"resample": 0}, {"size": {"longest_edge": 9}}, {"crop_size": "big"}]
)
def test_a_step_that_this_code_does_not_do_is_refused(change):
    with pytest.raises(WeightsError, match="preprocessor_config"):
        Preprocessing.from_transformers(change)


def test_the_tokenizer_of_another_model_is_refused(copy, scorer):
    other = train_clip_tokenizer(["other words entirely, and many more of them"] * 3, 1040)
    other.save(str(copy / "tokenizer.json"))
    with pytest.raises(WeightsError, match="tokenizer"):
        load_clip(copy)


def test_what_is_no_clip_is_refused(copy, tmp_path):
    edit(copy / "config.json", model_type="bert")
    with pytest.raises(WeightsError, match="bert"):
        load_clip(copy)
    with pytest.raises(ModelNotFoundError):
        load_clip(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_clip(tmp_path)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *(("config.json", key, value) for key in ("text_config", "vision_config") for value in ("x", 5, [5])),
        ("config.json", "projection_dim", "16"),
        ("config.json", "projection_dim", [16]),
        ("preprocessor_config.json", "resample", [3]),
        ("preprocessor_config.json", "size", {"shortest_edge": "32"}),
        ("preprocessor_config.json", "crop_size", {"height": None}),
        ("preprocessor_config.json", "image_mean", 0.5),
    ],
)
def test_values_of_a_wrong_type_are_a_sentence(copy, name, key, value):
    edit(copy / name, **{key: value})
    with pytest.raises(WeightsError):
        load_clip(copy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_host_programs_default_dtype_changes_no_feature(copy, dtype):
    picture = torch.linspace(-1, 1, 3 * 48 * 40).reshape(1, 3, 48, 40)

    def judged() -> list[torch.Tensor]:
        scorer = load_clip(copy)
        return [scorer.texts(TEXTS[:2]), scorer.images(picture)]

    before, usual = judged(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        after = judged()
    finally:
        torch.set_default_dtype(usual)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_folder_of_something_else_is_not_overwritten(scorer, tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(OutputError, match="not a CLIP"):
        save_clip(tmp_path, scorer)
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_a_vocabulary_below_its_bytes_is_refused():
    with pytest.raises(SettingsError, match="1024"):
        train_clip_tokenizer(["a"], 500)
