"""A tiny model of random numbers, and the two folders of graphs made of it, once a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import nn

from sanakit.graphs import onnx
from sanakit.graphs.networks import Network
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import convert, save_diffusers

SANA = SanaConfig(
    depth=1, width=64, cross_heads=4, qk_norm=True, text_width=48, latent_channels=8, sample_size=4
)
STAGES = (Stage(8, 0), Stage(8, 1), Stage(8, 1), Stage(16, 1), Stage(16, 1), Stage(32, 1, (5,)))
AUTOENCODER = DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=8, head_dim=8, scaling_factor=0.5)
# The window is shorter than the instruction: sliding layers drop keys in our model, and hide them in graphs.
GEMMA = Gemma2Config(
    vocab_size=600,
    width=48,
    depth=2,
    heads=4,
    kv_heads=2,
    head_dim=12,
    mlp_width=96,
    query_scalar=12,
    sliding_window=4,
)
SPRINT = replace(SANA, guidance_embed=True, time_scale=1.0, position_interpolation=1.0)

Graphs = Callable[..., Path]
Module = TypeVar("Module", bound=nn.Module)


def randomised(module: Module, spread: float = 0.2) -> Module:
    """Draw every parameter, so that all of them matter to what comes out."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gain = name.endswith("norm.weight") or "norm_" in name or "layernorm" in name
            parameter.copy_(torch.randn_like(parameter) * spread + gain)
    return module.eval()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    instruction = "Draw two green foxes in the snow on a table: "
    tokenizer = train_tokenizer(
        ["a red apple on a table", "two green foxes in the snow", instruction] * 20, 520
    )
    return save_diffusers(
        tmp_path_factory.mktemp("tiny") / "model",
        transformer=randomised(Sana(SANA)),
        autoencoder=randomised(DCAE(AUTOENCODER)),
        text_encoder=TextEncoder(randomised(Gemma2(GEMMA), 0.3), tokenizer, instruction, 20),
        flow_shift=2.5,
        defaults={"steps": 3, "guidance": 3.0, "width": 96, "height": 64, "solver": "dpm"},
        name="tiny",
    )


@pytest.fixture(scope="session")
def graphs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """Return the folder of graphs for a runtime, made of the tiny model when it is first asked for."""

    @cache
    def made(runtime: str) -> Path:
        target = tmp_path_factory.mktemp("graphs") / runtime
        if runtime == "onnx":
            return convert(model, target, "onnx")
        first = made("onnx")  # what torch's exporter takes half a minute for is the same in both

        def copy(network: Network, path: Path, half: bool) -> None:
            shutil.copy(first / path.parent.name / path.name, path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx, "write", copy)
            return convert(model, target, "openvino")

    return made
