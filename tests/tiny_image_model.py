"""A model of images of a few thousand random values, as a folder: 64 px, captions of a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers

STAGES = (Stage(8, 0), *(Stage(8, 1),) * 5)  # 32 pixels to a latent
TEXT = Gemma2Config(
    vocab_size=600, width=24, depth=1, heads=2, kv_heads=1, head_dim=12, mlp_width=48, query_scalar=12
)


def save_tiny(
    folder: Path,
    *,
    defaults: dict[str, Any],
    flow_shift: float = 2.0,
    dtype: str = "float16",
    depth: int = 1,
    channels: int = 8,
    **transformer: Any,
) -> Path:
    """Write it; the folder's name is the model's. channels: of a latent. transformer: of `SanaConfig`."""
    torch.manual_seed(0)
    sana = SanaConfig(
        depth=depth,
        width=32,
        cross_heads=2,
        text_width=TEXT.width,
        latent_channels=channels,
        sample_size=2,
        **transformer,
    )
    codec = DCAEConfig(
        encoder=STAGES, decoder=STAGES, latent_channels=channels, head_dim=8, scaling_factor=0.5
    )
    models = Sana(sana), DCAE(codec), Gemma2(TEXT)
    for model in models:
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    tokenizer = train_tokenizer(["a red apple on a table", "two green foxes"] * 20, 520)
    return save_diffusers(
        folder,
        transformer=models[0].eval(),
        autoencoder=models[1].eval(),
        text_encoder=TextEncoder(models[2].eval(), tokenizer, "Draw this: ", 20),
        defaults={"width": 64, "height": 64, **defaults},
        flow_shift=flow_shift,
        dtype=dtype,
        name=folder.name,
        licence="Apache-2.0",
    )
