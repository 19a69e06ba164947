"""What a run leaves becomes the embedded model: nothing twice, its things known, its card kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit import TextToVideo
from sanakit.errors import OutputError, WeightsError
from sanakit.models.gemma2 import Gemma2
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.train.video import embed
from sanakit.pocket.train.video.embed import embed_video
from sanakit.text.encoder import TextEncoder
from sanakit.text.known_things import FILE, KnownThings
from sanakit.weights import load_text_encoder
from sanakit.weights.find.catalog import CATALOG
from sanakit.weights.video.folder import save_video
from tests.pipelines.video.tiny import AUTOENCODER, TRANSFORMER

THINGS = KnownThings(
    {"a ghost": ("spook",), "a red apple": ("apple",), "a gizmo": ("thingamajig",)},
    threshold=9.0,
    animated=("a ghost",),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trained(tmp_path_factory.mktemp("run") / "model", load_text_encoder("pocket"), 256, THINGS)


def save_trained(folder: Path, encoder: TextEncoder, width: int, things: KnownThings | None) -> Path:
    """Write a model as a run does: with a text encoder of its own."""
    torch.manual_seed(0)
    return save_video(
        folder,
        transformer=SanaVideo(replace(TRANSFORMER, depth=1, text_width=width)),
        autoencoder=WanVAE(AUTOENCODER),
        text_encoder=encoder,
        flow_shift=3.0,
        frames=9,
        rate=8,
        defaults={"steps": 1, "guidance": 1.0, "width": 64, "height": 64},
        dtype=torch.float16,
        name="pocket-video",
        known_things=things,
    )


def test_it_draws_as_the_run_does_without_a_text_encoder_of_its_own(trained: Path, tmp_path: Path) -> None:
    embedded = embed_video(trained, tmp_path / "pocket_video")
    assert {path.name for path in embedded.iterdir()} == {
        *("transformer", "vae", "scheduler", "model_index.json", "sanakit.json", FILE),
    }
    assert json.loads((embedded / "sanakit.json").read_text())["text_encoder_of"] == "pocket"
    one, other = (TextToVideo.from_pretrained(path) for path in (trained, embedded))
    drawn = [pipe("a ghost", frames=5, seed=3, output="latent").clips for pipe in (one, other)]
    assert isinstance(drawn[0], torch.Tensor)
    assert torch.equal(*drawn)  # pyright: ignore[reportArgumentType]


def test_words_are_those_of_pocket_and_the_threshold_fits_its_encoder(trained: Path, tmp_path: Path) -> None:
    owner = CATALOG["pocket"].folder
    assert owner is not None
    known, pocket = KnownThings.load(embed_video(trained, tmp_path / "to")), KnownThings.load(owner)
    assert known is not None
    assert pocket is not None
    assert known.phrases == THINGS.phrases
    assert known.animated == ("a ghost",)
    assert known.things["a ghost"] == pocket.things["a ghost"] != THINGS.things["a ghost"]
    assert known.things["a gizmo"] == ("thingamajig",)  # of which pocket knows nothing
    assert -1 < known.threshold < 1


def test_a_model_that_is_there_is_replaced_and_keeps_its_card(trained: Path, tmp_path: Path) -> None:
    folder = embed_video(trained, tmp_path / "to")
    (folder / "README.md").write_text("the card")
    (folder / "stale").touch()
    embed_video(trained, folder)
    assert (folder / "README.md").read_text() == "the card"
    assert not (folder / "stale").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(OutputError, match="not a model folder"):
        embed_video(trained, tmp_path / "other")


def test_what_cannot_be_embedded_is_refused_and_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, encoder = tmp_path / "to", load_text_encoder("pocket")
    narrow = Gemma2(replace(encoder.model.config, width=64, depth=1, sliding_layers=()))
    other = TextEncoder(narrow, encoder.tokenizer, "", 20)
    with pytest.raises(WeightsError, match="features of width 64, and pocket's have 256"):
        embed_video(save_trained(tmp_path / "narrow", other, 64, THINGS), to)
    with pytest.raises(WeightsError, match=r"has no known_things\.json"):
        embed_video(save_trained(tmp_path / "nameless", encoder, 256, None), to)
    monkeypatch.setattr(embed, "MOST", 10_000)
    with pytest.raises(WeightsError, match=r"would take .* MB in the package, above 0\.01"):
        embed_video(trained, to)
    assert not to.exists()
