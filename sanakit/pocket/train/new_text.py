"""Let a finished transformer read another text encoder: its caption projection first gives the old features.

A linear map from the new encoder's features to the old one's is fitted at the last feature of many texts
(ridge regression), and put before the projection's first layer. Training continues from there.

Shapes: N texts, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sanakit.models.sana import Sana
from sanakit.text.encoder import TextEncoder

RIDGE = 1e-2  # of the features' mean square


@torch.no_grad()
def read_instead(transformer: Sana, old: TextEncoder, new: TextEncoder, texts: Sequence[str]) -> float:
    """Change the caption projection in place; return what of the old features' variance the map explains.

    texts: what both encoders are asked for. Raises ValueError where their widths differ.
    """
    first = transformer.y_embedder.y_proj.fc1
    if new.model.config.width != old.model.config.width or not isinstance(first, nn.Linear):
        raise ValueError("Both encoders must have the width that the transformer reads.")
    source, target = last_features(new, texts), last_features(old, texts)  # N E
    mean, wanted = source.mean(0), target.mean(0)
    x, y = source - mean, target - wanted
    square = x.T @ x
    square += RIDGE * len(x) * x.square().mean() * torch.eye(len(square), dtype=torch.float32)
    solution = torch.linalg.solve(square, x.T @ y)  # E E, features as rows
    explained = 1 - float((y - x @ solution).square().sum() / y.square().sum())
    offset = wanted - mean @ solution
    first.bias += first.weight @ offset
    first.weight.copy_(first.weight @ solution.T)
    return explained


def last_features(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Features of the last tokens of texts, N E."""
    return torch.stack([features[-1].float() for features in encoder.encode(list(texts), notes=[])])
