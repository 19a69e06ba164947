"""A tiny model of few steps, and an engine of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.serve.engine.engine import Engine
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers

STAGES = (Stage(8, 0), *(Stage(8, 1),) * 5)  # 32 pixels to a latent
CODEC = DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=8, head_dim=8, scaling_factor=0.5)
SANA = SanaConfig(depth=1, width=32, cross_heads=2, text_width=24, latent_channels=8, sample_size=2)
FEW = {"qk_norm": True, "time_scale": 1.0, "guidance_embed": True}
TEXT = Gemma2Config(
    vocab_size=600, width=24, depth=1, heads=2, kv_heads=1, head_dim=12, mlp_width=48, query_scalar=12
)


@pytest.fixture(scope="session")
def few_step_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    models = Sana(replace(SANA, **FEW)), DCAE(CODEC), Gemma2(TEXT)
    for model in models:
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    tokenizer = train_tokenizer(["a red apple on a table", "two green foxes"] * 20, 520)
    return save_diffusers(
        tmp_path_factory.mktemp("few") / "few",
        transformer=models[0].eval(),
        autoencoder=models[1].eval(),
        text_encoder=TextEncoder(models[2].eval(), tokenizer, "Draw this: ", 20),
        defaults={"steps": 2, "guidance": 4.5, "width": 64, "height": 64, "solver": "scm"},
        flow_shift=1.0,
        dtype="float32",
        name="few",
        licence="Apache-2.0",
    )


@pytest.fixture(scope="module")
def few_step_engine(few_step_folder: Path) -> Iterator[Engine]:
    running = Engine([str(few_step_folder)], device="cpu", threads=1)
    running.start()
    yield running
    running.close()
