"""CLIP scores: their scale, their limits, and that transformers finds the same."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from sanakit.data.annotate.scoring import clip_scorer, scorer_name
from sanakit.errors import ModelNotFoundError, SettingsError
from sanakit.eval.folder import pixels
from sanakit.models.clip import Clip, ClipConfig, TowerConfig
from sanakit.text.clip import ClipScorer, Preprocessing, train_clip_tokenizer
from sanakit.weights.clip import load_clip, save_clip
from sanakit.weights.read.header import write_safetensors

TEXTS = ["a red apple", "a blue whale on white", "two apples"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_clip_tokenizer(TEXTS * 3, 1024)
    tower = TowerConfig(width=16, depth=2, heads=2, mlp_width=32)
    vocabulary = tokenizer.get_vocab_size()
    torch.manual_seed(0)
    model = Clip(
        ClipConfig(
            vision=tower,
            text=tower,
            image_size=16,
            patch_size=8,
            vocab_size=vocabulary,
            max_tokens=12,
            eos_token=vocabulary - 1,
            embed_width=8,
        )
    ).eval()
    model.init_weights()
    place = tmp_path_factory.mktemp("clip") / "tiny"
    return save_clip(place, ClipScorer(model, tokenizer, Preprocessing(size=16, crop=(16, 16))))


@pytest.fixture
def images() -> list[Image.Image]:
    left = Image.linear_gradient("L").convert("RGB")
    return [left.resize((40, 20)), left.rotate(90).resize((16, 16)), Image.new("RGB", (9, 30), "red")]


def test_scores_are_a_hundred_cosines_as_transformers_computes_them(folder: Path, images) -> None:
    from transformers import CLIPModel

    ours = clip_scorer(folder, device="cpu")
    clip, theirs = load_clip(folder), CLIPModel.from_pretrained(folder).eval()
    every = [(image, text) for image in images for text in TEXTS]
    scores = torch.tensor(ours([image for image, _ in every], [text for _, text in every])).view(3, 3)
    with torch.no_grad():
        pictures = torch.cat([clip.preprocessing(pixels(image)[None]) for image in images])
        out = theirs(input_ids=clip.tokenize(TEXTS), pixel_values=pictures)
    cosines = out.image_embeds @ out.text_embeds.T
    assert cosines.min() < 0 < cosines.max()  # both branches of the maximum are met
    torch.testing.assert_close(scores, 100 * cosines.clamp(min=0), rtol=0, atol=1e-3)


def test_a_picture_that_comes_again_is_looked_at_once(
    folder: Path, images, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    look = Clip.images
    monkeypatch.setattr(Clip, "images", lambda self, pixels: counts.append(len(pixels)) or look(self, pixels))
    score = clip_scorer(folder, device="cpu")
    scores = score([images[0], images[1], images[0]], [TEXTS[0]] * 3)
    assert counts == [2]
    assert scores[0] == scores[2] != scores[1]


def test_long_texts_are_scored_by_their_beginning_which_is_said_once(folder: Path, images) -> None:
    score = clip_scorer(folder, device="cpu")
    text = " ".join(["apple"] * 50)
    with pytest.warns(UserWarning, match="reads 10 tokens"):
        (long,) = score(images[:1], [text])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(images[:1], [text + " whale"]) == [long]


def test_pairs_are_pairs(folder: Path, images) -> None:
    score = clip_scorer(folder, device="cpu")
    assert score([], []) == []
    with pytest.raises(SettingsError, match="1 texts came for 3 images"):
        score(images, ["one"])


def test_what_is_no_clip_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        clip_scorer(tmp_path / "nothing", device="cpu")


def test_a_judge_is_known_by_its_weights_and_not_by_its_folder(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    assert scorer_name(copy) == scorer_name(folder)
    assert scorer_name(folder).startswith("tiny@")
    state = dict(load_clip(folder).model.state_dict())
    state["visual_projection.weight"] = state["visual_projection.weight"] + 1
    write_safetensors(copy / "model.safetensors", state, torch.float32)
    assert scorer_name(copy) != scorer_name(folder)
    with pytest.raises(ModelNotFoundError):
        scorer_name(tmp_path / "nowhere")
