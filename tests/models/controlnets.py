"""Tiny models of each variant with a ControlNet, random weights, and inputs for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sanakit.models.controlnet import ControlledSana, ControlNet
from sanakit.models.sana import Sana, SanaConfig, TextContext

TINY = SanaConfig(depth=4, width=8, cross_heads=2, head_dim=4, text_width=8, latent_channels=4, sample_size=8)
NORMED = replace(TINY, qk_norm=True)
SPRINT = replace(TINY, qk_norm=True, guidance_embed=True, time_scale=1.0)
VARIANTS = {
    "sana": TINY,
    "sana-1.5": NORMED,
    "sprint": SPRINT,
    "2k": replace(TINY, position_interpolation=1.0),
    "4k": replace(TINY, position_interpolation=2.0),
}
COPIES = 2
TOLERANCE = 2e-5  # of the largest number compared: float32 sums in another order


def randomised(module: nn.Module) -> nn.Module:
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return module.eval()


def tiny(config: SanaConfig = TINY, order="native", copies: int = COPIES) -> tuple[Sana, ControlNet]:
    base, net = Sana(config), ControlNet(replace(config, depth=copies), order)
    randomised(base)
    randomised(net)
    return base, net


def inputs(config: SanaConfig, batch: int = 2, grid: tuple[int, int] = (4, 6)) -> dict[str, Tensor | None]:
    lengths = torch.tensor([5, 3, 1, 4])[:batch]
    return {
        "latents": torch.randn(batch, config.latent_channels, *grid),
        "t": torch.linspace(0.9, 0.3, batch),
        "text": torch.randn(batch, 5, config.text_width),
        "mask": torch.arange(5) < lengths[:, None],
        "guidance": torch.linspace(4.5, 4.0, batch) if config.guidance_embed else None,
    }


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def prepared(model: ControlledSana | Sana, given: dict) -> TextContext:
    return model.prepare([text[real] for text, real in zip(given["text"], given["mask"], strict=True)])
