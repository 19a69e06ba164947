"""A tiny Wan VAE and diffusers' AutoencoderKLWan of the same random weights, to be compared."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig

EXACT = 1e-12  # largest error over largest value, float64; seen: 2e-14
TOLERANCE = 2e-5  # the same in float32; seen: 1.3e-5 by the kernel, 9e-6 by torch's convolutions

TINY: dict[str, Any] = {  # arguments of AutoencoderKLWan
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.5, -1.0, 0.0, 2.0],
    "latents_std": [0.5, 1.0, 2.0, 4.0],
}
POCKET = {**TINY, "num_res_blocks": 1, "dim_mult": [1, 2, 4]} | {"temperal_downsample": [True, False]}


def build_pair(arguments: dict[str, Any], dtype: torch.dtype) -> tuple[WanVAE, AutoencoderKLWan]:
    torch.manual_seed(0)
    theirs = AutoencoderKLWan(**arguments).eval()
    randomise_norms(theirs)
    theirs.to(dtype)
    ours = WanVAE(WanVAEConfig.from_diffusers(dict(theirs.config))).to(dtype).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def build(
    config: WanVAEConfig | None = None, dtype: torch.dtype = torch.float64, part: Any = "both"
) -> WanVAE:
    torch.manual_seed(0)
    model = WanVAE(config or WanVAEConfig.from_diffusers(TINY), part)
    randomise_norms(model)
    return model.to(dtype).eval()


@torch.no_grad()
def randomise_norms(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():  # they start at 1, which hides a mistake
        if name.endswith("gamma"):
            parameter.uniform_(0.5, 1.5)


def sample(frames: int = 17, dtype: torch.dtype = torch.float64, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(2, 3, frames, height, width, dtype=dtype) * 2 - 1


def relative_error(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    return ((got - wanted).abs().max() / wanted.abs().max()).item()
