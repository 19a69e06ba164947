"""A whole model of random numbers, some images with captions: quick to load, draw, train and damage."""

from __future__ import annotations

import json
from pathlib import Path

PROMPTS = ("a red apple", "two green foxes", "an owl on a table")


def make_model(folder: Path, *, dtype: str = "float32") -> Path:
    """Write the model as a diffusers folder: 32 pixels to a latent, made for 64 px. Returns the folder."""
    import torch
    from torch import nn

    from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
    from sanakit.models.gemma2 import Gemma2, Gemma2Config
    from sanakit.models.sana import Sana, SanaConfig
    from sanakit.text.encoder import TextEncoder
    from sanakit.text.tokenizer import train_tokenizer
    from sanakit.weights import save_diffusers

    torch.manual_seed(0)
    stages = (Stage(8, 0), *(Stage(8, 1),) * 5)
    autoencoder = DCAEConfig(
        encoder=stages, decoder=stages, latent_channels=8, head_dim=8, scaling_factor=0.5
    )
    transformer = SanaConfig(
        depth=1, width=32, cross_heads=2, text_width=24, latent_channels=8, sample_size=2
    )
    text = Gemma2Config(
        vocab_size=600, width=24, depth=1, heads=2, kv_heads=1, head_dim=12, mlp_width=48, query_scalar=12
    )
    parts = Sana(transformer), DCAE(autoencoder), Gemma2(text)
    for part in parts:
        for name, parameter in part.named_parameters():
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    return save_diffusers(
        folder,
        transformer=parts[0].eval(),
        autoencoder=parts[1].eval(),
        text_encoder=TextEncoder(parts[2].eval(), train_tokenizer([*PROMPTS] * 20, 520), "Draw this: ", 20),
        defaults={"steps": 2, "guidance": 2.0, "width": 64, "height": 64, "solver": "dpm"},
        flow_shift=2.0,
        dtype=dtype,
        name="tiny",
        licence="Apache-2.0",
    )


def make_images(folder: Path, count: int = 9) -> Path:
    """Write soft images of three shapes, each with two captions in a .txt file. Returns the folder."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    generator = np.random.default_rng(7)
    for number in range(count):
        size = ((64, 64), (128, 32), (32, 128))[number % 3]
        soft = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        soft.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"a red apple {number}\ntwo green foxes\n")
    return folder


def make_prompts(file: Path, count: int) -> Path:
    """Write a file of prompts for small images of few steps. Returns the file."""
    rows = ({"prompt": PROMPTS[n % len(PROMPTS)], "size": "64x64", "steps": 2} for n in range(count))
    file.write_text("\n".join(map(json.dumps, rows)))
    return file
