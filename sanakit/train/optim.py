"""Optimisers: AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest.

Muon (Jordan et al. 2024; scale by Liu et al., arXiv:2502.16982) replaces a matrix gradient by the nearest
orthogonal matrix, so that all directions learn at one rate. torch.optim.Muon takes two-dimensional parameters
only; SANA's 1x1 convolutions are four-dimensional and its queries, keys and values lie fused in one matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sanakit.errors import WeightsError
from sanakit.train.config import TrainConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic that drives singular values to about 1 in five rounds
FUSED = {"qkv": 3, "kv_linear": 2}  # layers whose output rows hold several matrices


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz iteration, for matrices (or 1x1 convolutions).

    groups: each with "params" and "lr", and as "parts" how many matrices lie fused in each of its parameters.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, weight_decay: float) -> None:
        super().__init__(groups, {"parts": 1, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient. closure: not used, and in torch's signature only."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                nesterov = parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                matrices = nesterov.unflatten(0, (group["parts"], -1))  # parts R C
                alike.setdefault((matrices.shape[1], matrices.shape[2]), []).append((parameter, matrices))
            # Matrices of one shape are orthogonalised together: one by one takes a third longer.
            for pairs in alike.values():
                updates = orthogonalise(torch.cat([matrices for _, matrices in pairs]))
                for (parameter, _), update in zip(pairs, updates.split(group["parts"]), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"])


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, scaled to the size of an Adam update (0.2 per entry).

    matrices: R C, or any number of them, ... R C; the same shape comes back.
    """
    a, b, c = NEWTON_SCHULZ
    rows, columns = matrices.shape[-2:]
    x = matrices.reshape(-1, rows, columns).bfloat16()
    x = x.mT if rows > columns else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if rows > columns else x
    return x.reshape(matrices.shape).to(matrices.dtype) * (0.2 * max(rows, columns) ** 0.5)


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """One optimiser, or two with Muon. Vectors (gains, biases) and embeddings are never decayed.

    Every parameter group holds its learning rate before the schedule as "base_lr".
    """
    adamw: dict[tuple[float, float], list[nn.Parameter]] = {}  # by factor on the learning rate, and decay
    muon: dict[tuple[float, int], list[nn.Parameter]] = {}  # by factor on the learning rate, and parts
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = config.factor(name)
        if config.optimizer == "muon" and _is_block_matrix(name, parameter):
            parts = next((count for key, count in FUSED.items() if f".{key}." in name), 1)
            muon.setdefault((factor, parts), []).append(parameter)
        else:
            decay = config.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
            adamw.setdefault((factor, decay), []).append(parameter)

    optimizers: list[torch.optim.Optimizer] = []
    if adamw:
        groups = [
            {"params": parameters, "lr": config.learning_rate * factor, "weight_decay": decay}
            for (factor, decay), parameters in adamw.items()
        ]
        optimizers.append(torch.optim.AdamW(groups, betas=config.betas, fused=True))
    if muon:
        groups = [
            {"params": parameters, "lr": config.muon_learning_rate * factor, "parts": parts}
            for (factor, parts), parameters in muon.items()
        ]
        optimizers.append(Muon(groups, momentum=0.95, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def resume_optimizers(optimizers: list[torch.optim.Optimizer], saved: list[dict[str, Any]]) -> None:
    """Take over the momenta of saved optimisers, but keep the settings: a resumed run may change its rates.

    Raises WeightsError when they were saved for other parameter groups.
    """
    try:
        for optimizer, state in zip(optimizers, saved, strict=True):
            settings = [
                {name: value for name, value in group.items() if name != "params"}
                for group in optimizer.param_groups
            ]
            optimizer.load_state_dict(state)
            for group, own in zip(optimizer.param_groups, settings, strict=True):
                group.update(own)
    except ValueError as error:
        raise WeightsError(
            "The checkpoint's optimiser has other parameter groups: resume with the optimiser and the rate "
            "factors it was trained with, or start anew in another folder."
        ) from error


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    inside = ".blocks." in f".{name}" or ".layers." in f".{name}"
    flat = parameter.ndim == 2 or (parameter.ndim == 4 and parameter.shape[2:] == (1, 1))
    return inside and flat and "table" not in name
