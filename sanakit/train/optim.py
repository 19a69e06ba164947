"""Optimisers: AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest.

Muon (Jordan et al. 2024; scale by Liu et al., arXiv:2502.16982) replaces a matrix gradient by the nearest orthogonal
matrix, so that all directions learn at one rate. torch.optim.Muon takes two-dimensional parameters only; SANA's
1x1 convolutions are four-dimensional and its queries, keys and values lie fused in one matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sanakit.train.config import TrainConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic that drives singular values to about 1 in five rounds
FUSED = {"qkv": 3, "kv_linear": 2}  # layers whose output rows hold several matrices


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz iteration, for matrices (or 1x1 convolutions)."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], lr: float, momentum: float, weight_decay: float
    ):
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in named:
            parts = next((count for key, count in FUSED.items() if f".{key}." in name), 1)
            groups.setdefault(parts, []).append(parameter)
        super().__init__(
            [{"params": parameters, "parts": parts} for parts, parameters in groups.items()],
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                nesterov = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                update = torch.cat([orthogonalise(part) for part in nesterov.chunk(group["parts"])])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"])


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, scaled to the size of an Adam update (0.2 per entry)."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    scale = 0.2 * max(matrix.shape) ** 0.5
    return (x.T if tall else x).to(matrix.dtype) * scale


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """One optimiser, or two with Muon. Gains, biases and embeddings are never decayed.

    Every parameter group holds its learning rate before the schedule as "base_lr".
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [pair for pair in trained if config.optimizer == "muon" and _is_block_matrix(*pair)]
    taken = {id(parameter) for _, parameter in matrices}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained:
        if id(parameter) not in taken:
            decay = config.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
            groups.setdefault((config.factor(name), decay), []).append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": parameters, "lr": config.learning_rate * factor, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
        ],
        betas=config.betas,
        fused=True,
    )
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        optimizers.append(
            Muon(matrices, config.muon_learning_rate, momentum=0.95, weight_decay=config.weight_decay)
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    inside = ".blocks." in f".{name}" or ".layers." in f".{name}"
    flat = parameter.ndim == 2 or (parameter.ndim == 4 and parameter.shape[2:] == (1, 1))
    return inside and flat and "table" not in name
