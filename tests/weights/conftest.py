"""A whole SANA model of random numbers, some hundred kilobytes, and its diffusers folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers

SANA = SanaConfig(depth=2, width=64, cross_heads=4, text_width=48, latent_channels=8, sample_size=2)
STAGES = (Stage(8, 1), Stage(16, 1), Stage(32, 1, (5,)))
AUTOENCODER = DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=8, head_dim=8, scaling_factor=0.5)
GEMMA = Gemma2Config(
    vocab_size=600, width=48, depth=2, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
)


def randomised(module: nn.Module) -> nn.Module:
    """Draw every parameter, so that no zero or one hides a wrong name."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return module.eval()


@dataclass
class Tiny:
    """The three networks, and the folder they were saved to."""

    transformer: Sana
    autoencoder: DCAE
    text_encoder: TextEncoder
    folder: Path


@pytest.fixture(scope="session")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red apple on a table", "two green foxes"] * 20, 520)
    text_encoder = TextEncoder(randomised(Gemma2(GEMMA)), tokenizer, "Draw this: ", 20)
    tiny = Tiny(
        randomised(Sana(SANA)),
        randomised(DCAE(AUTOENCODER)),
        text_encoder,
        tmp_path_factory.mktemp("tiny") / "model",
    )
    save_diffusers(
        tiny.folder,
        transformer=tiny.transformer,
        autoencoder=tiny.autoencoder,
        text_encoder=tiny.text_encoder,
        flow_shift=2.5,
        defaults={"steps": 7, "guidance": 2.0, "width": 64, "height": 32, "solver": "euler"},
        name="tiny",
    )
    return tiny


@pytest.fixture
def tiny(_tiny: Tiny, tmp_path: Path) -> Tiny:
    """The model with its own copy of the folder: a test may damage it."""
    folder = tmp_path / "model"
    shutil.copytree(_tiny.folder, folder)
    return replace(_tiny, folder=folder)


@pytest.fixture(
    params=[{}, {"qk_norm": True}, {"qk_norm": True, "guidance_embed": True, "time_scale": 1.0}],
    ids=["sana", "1.5", "sprint"],
)
def variant(request: pytest.FixtureRequest) -> Sana:
    """A tiny transformer of each architecture."""
    torch.manual_seed(1)
    return randomised(Sana(replace(SANA, **request.param)))  # pyright: ignore[reportReturnType]
