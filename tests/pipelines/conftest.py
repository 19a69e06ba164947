"""A whole model of random numbers, one folder of it per test session, and the pipeline that draws with it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pipelines.prompt_file import PromptImage, read_prompts
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers
from tests.pipelines.batches import PROMPTS, content, run

INSTRUCTION = "Draw this: "
MAX_TOKENS = 20
SANA = SanaConfig(depth=2, width=64, cross_heads=4, text_width=48, latent_channels=8, sample_size=4)
STAGES = (Stage(8, 0), Stage(8, 1), Stage(8, 1), Stage(16, 1), Stage(16, 1), Stage(32, 1, (5,)))
AUTOENCODER = DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=8, head_dim=8, scaling_factor=0.5)
GEMMA = Gemma2Config(
    vocab_size=600, width=48, depth=2, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
)
SPRINT = replace(SANA, qk_norm=True, guidance_embed=True, time_scale=1.0)
SIZE = {"width": 96, "height": 64}
DEFAULTS = {"steps": 3, "guidance": 3.0, **SIZE, "solver": "dpm"}


def randomised(module: nn.Module, spread: float) -> nn.Module:
    """Draw every parameter, so that all of them matter to the image."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = name.endswith("norm.weight") or "norm_" in name or "layernorm" in name
            parameter.copy_(torch.randn_like(parameter) * spread + gain)
    return module.eval()


def save(folder: Path, config: SanaConfig, defaults: dict[str, Any] = DEFAULTS, name: str = "tiny") -> Path:
    torch.manual_seed(0)
    corpus = ["a red apple on a table", "two green foxes in the snow", INSTRUCTION] * 20
    encoder = TextEncoder(
        randomised(Gemma2(GEMMA), 0.3), train_tokenizer(corpus, 520), INSTRUCTION, MAX_TOKENS
    )
    return save_diffusers(
        folder,
        transformer=randomised(Sana(config), 0.2),
        autoencoder=randomised(DCAE(AUTOENCODER), 0.2),
        text_encoder=encoder,
        flow_shift=3.0,
        defaults=defaults,
        name=name,
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tiny") / "model", SANA)


@pytest.fixture(scope="session")
def binned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, saying that it was trained at 512 px: such models draw in bins."""
    return save(tmp_path_factory.mktemp("binned") / "model", replace(SANA, sample_size=16))


@pytest.fixture(scope="session")
def sprint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SANA-Sprint model; what is not said is left to what reading its folder tells: SCM, two steps."""
    return save(tmp_path_factory.mktemp("sprint") / "model", SPRINT, SIZE, "tiny-sprint")


@pytest.fixture(scope="session")
def pipe(folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="session")
def attentive(folder: Path) -> TextToImage:
    """The same model, whose images depend on single words a hundred times as much."""
    pipe = TextToImage.from_pretrained(folder, device="cpu", encoder=True)
    assert isinstance(pipe.transformer, Sana)
    with torch.no_grad():
        for block in pipe.transformer.blocks:
            block.cross_attn.proj.weight.copy_(block.cross_attn.proj.weight * 8)
    return pipe


@pytest.fixture
def pictures(pipe: TextToImage, tmp_path: Path) -> list[PromptImage]:
    """Five images of a file of prompts, the third of another size."""
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    rows[2]["size"] = "64x64"
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return read_prompts(path, partial(check_request, pipe.spec), steps=2)


@pytest.fixture
def whole(pipe: TextToImage, pictures: list[PromptImage], tmp_path: Path) -> dict[str, bytes]:
    """What an uninterrupted run of them leaves."""
    run(pipe, pictures, tmp_path / "whole")
    return content(tmp_path / "whole")
