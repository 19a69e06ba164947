"""A tiny LTX-2 VAE and diffusers' AutoencoderKLLTX2Video of the same random weights, to be compared."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLLTX2Video
from torch import Tensor

from sanakit.models.video.ltx2_vae import LTX2VAE, LTX2VAEConfig

EXACT = 1e-12  # largest error over largest value, float64; seen: 6e-15
TOLERANCE = 2e-5  # the same in float32; seen: 7e-6

TINY: dict[str, Any] = {  # arguments of AutoencoderKLLTX2Video: LTX-2's shape, two blocks where it counts
    "latent_channels": 8,
    "block_out_channels": (8, 8, 16, 16),
    "decoder_block_out_channels": (8, 16, 32),
    "layers_per_block": (1, 2, 1, 1, 1),
    "decoder_layers_per_block": (1, 2, 1, 1),
    "decoder_causal": False,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
NEWER: dict[str, Any] = {  # LTX-2.3's shape
    **TINY,
    "decoder_block_out_channels": (8, 16, 16, 32),
    "decoder_layers_per_block": (1, 2, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True,) * 4,
    "decoder_inject_noise": (False,) * 5,
    "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
    "upsample_residual": (False,) * 4,
    "upsample_factor": (2, 2, 1, 2),
    "decoder_spatial_padding_mode": "zeros",
}


def paddings(mode: str) -> dict[str, Any]:
    return {"encoder_spatial_padding_mode": mode, "decoder_spatial_padding_mode": mode}


def build_pair(
    arguments: dict[str, Any], dtype: torch.dtype = torch.float64
) -> tuple[LTX2VAE, AutoencoderKLLTX2Video]:
    torch.manual_seed(0)
    theirs = AutoencoderKLLTX2Video(**arguments).to(dtype).eval()
    ours = LTX2VAE(LTX2VAEConfig.from_diffusers(dict(theirs.config))).to(dtype).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def build(dtype: torch.dtype = torch.float64, part: Any = "both", **changes: Any) -> LTX2VAE:
    torch.manual_seed(0)
    return LTX2VAE(LTX2VAEConfig.from_diffusers({**TINY, **changes}), part).to(dtype).eval()


def sample(
    frames: int = 17, dtype: torch.dtype = torch.float64, height: int = 64, width: int = 64, batch: int = 1
) -> Tensor:
    return torch.rand(batch, 3, frames, height, width, dtype=dtype) * 2 - 1


def codes(
    count: int = 3, dtype: torch.dtype = torch.float64, height: int = 2, width: int = 2, batch: int = 1
) -> Tensor:
    return torch.randn(batch, 8, count, height, width, dtype=dtype)
