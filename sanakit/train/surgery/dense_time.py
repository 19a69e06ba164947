"""Convert a transformer trained on times 1000 t to times t in [0, 1], as one-step distillation needs.

The embedding of 1000 t turns 160 times between noise and image, so that its derivative in t is huge. A new
embedder of t is fitted to the old one's outputs by least squares; all layers are then fine-tuned together
(training the embedder alone first makes the loss rise: NVlabs/Sana, issue 318).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sanakit.models.sana import Sana, ScalarEmbedding

TIMES, STEPS, RATE = 512, 800, 3e-3


def with_dense_time(transformer: Sana, seed: int = 0) -> tuple[Sana, float]:
    """Return a copy that takes t itself, and how far its embedding is from the old one's (relative RMS)."""
    return with_time_scale(transformer, 1.0, seed)


def with_time_scale(transformer: Sana, scale: float, seed: int = 0) -> tuple[Sana, float]:
    """Return a copy that takes times `scale` t, and how far its embedding is from the old one's."""
    config = replace(transformer.config, time_scale=scale)
    changed = Sana(config)
    changed.load_state_dict(transformer.state_dict())
    changed.to(next(transformer.parameters()).device)
    error = _fit(changed.t_embedder, scale, transformer, seed)
    return changed, error


def _fit(embedder: ScalarEmbedding, scale: float, source: Sana, seed: int) -> float:
    """Fit an embedder of `scale` t to the source's embedder of its own time; return the relative error."""
    device = next(source.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    for layer in embedder.mlp:
        if isinstance(layer, nn.Linear):
            std = layer.in_features**-0.5
            layer.weight.data.copy_(
                torch.randn(layer.weight.shape, generator=generator, dtype=torch.float32) * std
            )
            nn.init.zeros_(layer.bias)
    t = torch.linspace(0, 1, TIMES, device=device, dtype=torch.float32)
    with torch.no_grad():
        target = source.t_embedder(t * source.config.time_scale)
        smooth = target
        if source.config.time_scale > scale:
            # neighbours of 1/32 share a mean, as no net can follow 160 turns with t alone
            kernel = TIMES // 64
            padded = torch.cat([target[:1].expand(kernel, -1), target, target[-1:].expand(kernel, -1)])
            smooth = padded.T.unfold(1, 2 * kernel + 1, 1).mean(-1).T
    optimizer = torch.optim.Adam(embedder.parameters(), RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        loss = (embedder(scale * t) - smooth).square().mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float((embedder(scale * t) - target).norm() / target.norm())
