"""Whole tiny world models of random numbers as folders in diffusers' layout, bidirectional and streaming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sanakit.models.video.ltx2_vae import LTX2VAE, LTX2VAEConfig
from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM
from sanakit.weights import save_autoencoder, save_transformer
from sanakit.weights.save import write_json
from tests.pipelines.conftest import INSTRUCTION, MAX_TOKENS, SANA, randomised, save
from tests.pipelines.video.tiny import AUTOENCODER as WAN

TRANSFORMER = SanaWMConfig(
    depth=4, width=64, cross_heads=2, head_dim=32, text_width=48, latent_channels=4, sample_size=22
)
STREAMING = replace(TRANSFORMER, variant="streaming")
AUTOENCODER = LTX2VAEConfig(
    latent_channels=4,
    widths=(8, 16, 32, 64),
    depths=(1,) * 5,
    decoder_widths=(32, 16, 8),
    decoder_depths=(1,) * 4,
)
SIZE = {"width": 96, "height": 64}  # 2x3 latents
DEFAULTS = {"steps": 3, "guidance": 3.0, **SIZE}
INDEX = {
    "_class_name": "SanaWMPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "SanaWMTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLLTX2Video"],
}


def save_world(
    folder: Path,
    config: SanaWMConfig = TRANSFORMER,
    autoencoder: LTX2VAEConfig | None = AUTOENCODER,
    defaults: dict[str, Any] = DEFAULTS,
) -> Path:
    """Write the model. autoencoder: None: Wan's, with four frames and eight pixels a latent."""
    save(folder, SANA)
    torch.manual_seed(1)
    save_transformer(folder / "transformer", randomised(SanaWM(config), 0.15))  # pyright: ignore
    if autoencoder is None:
        vae = randomised(WanVAE(WAN), 0.08)
        for name, parameter in vae.named_parameters():
            if name.endswith("gamma"):
                parameter.data.uniform_(0.5, 1.5)
    else:
        vae = randomised(LTX2VAE(autoencoder), 0.1)
        vae.latents_mean.copy_(torch.tensor([0.5, -1.0, 0.0, 0.3]))
        vae.latents_std.copy_(torch.tensor([0.5, 1.0, 2.0, 1.5]))
    save_autoencoder(folder / "vae", vae)  # pyright: ignore[reportArgumentType]
    write_json(folder / "model_index.json", INDEX)
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 9.8, "num_train_timesteps": 1000}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    ours: dict[str, Any] = {"format": 1, "name": "tiny-world", "max_tokens": MAX_TOKENS}
    ours |= {"defaults": defaults, "instruction": INSTRUCTION}
    (folder / "sanakit.json").write_text(json.dumps(ours))
    return folder


def photo(width: int = 96, height: int = 64) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([2 * x, 3 * y, (x * y) % 256], axis=-1).astype(np.uint8))
