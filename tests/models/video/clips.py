"""Tiny SANA-Video transformers of random numbers, the same in diffusers, and inputs for both."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import SanaVideoTransformer3DModel
from torch import Tensor

from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.weights.layouts.sana_video import write_config
from sanakit.weights.save import diffusers_state

TINY = SanaVideoConfig(
    depth=2, width=24, cross_heads=2, head_dim=12, text_width=16, latent_channels=4, patch=2, max_positions=64
)
VARIANTS = {
    "patch 2": TINY,
    "patch 1": replace(TINY, width=64, head_dim=32, cross_heads=1, patch=1, latent_channels=8),
    "uneven axes": replace(TINY, width=96, head_dim=16, cross_heads=4, mlp_ratio=2.5),
    "released heads": replace(TINY, width=224, head_dim=112, depth=1),
    "no norms": replace(TINY, qk_norm=False, patch=1),
}


def randomised(config: SanaVideoConfig, std: float = 0.15) -> SanaVideo:
    model = SanaVideo(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=std)
    return model


def published(model: SanaVideo) -> SanaVideoTransformer3DModel:
    """diffusers' model with the same weights."""
    theirs = SanaVideoTransformer3DModel.from_config(write_config(model.config))
    theirs.load_state_dict(diffusers_state(model))
    return theirs.eval()


def run_published(theirs, latents: Tensor, t: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """As diffusers' pipelines call it; a time for each frame goes there as one for each token."""
    if t.ndim == 2:
        _, rows, columns = theirs.config.patch_size
        height, width = latents.shape[3] // rows, latents.shape[4] // columns
        t = t[:, None, :, None, None].expand(-1, 1, -1, height, width)
    called = {"encoder_hidden_states": text, "encoder_attention_mask": mask.long()}
    return theirs(latents, timestep=1000 * t, **called).sample


def inputs(config: SanaVideoConfig, batch: int = 2, grid=(5, 8, 6), tokens: int = 7) -> dict[str, Tensor]:
    """A batch whose text is padded, with garbage behind the mask."""
    lengths = torch.tensor([tokens, *range(1, batch)])[:batch]
    return {
        "latents": torch.randn(batch, config.latent_channels, *grid),
        "t": torch.linspace(0.9, 0.2, batch),
        "text": torch.randn(batch, tokens, config.text_width),
        "mask": torch.arange(tokens) < lengths[:, None],
    }


def prepared(model: SanaVideo, given: dict[str, Tensor]) -> TextContext:
    return model.prepare([row[real] for row, real in zip(given["text"], given["mask"], strict=True)])


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
