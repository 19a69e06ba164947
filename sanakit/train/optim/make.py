"""The optimisers of all parameters, and the size of their states.

AdamW or CAME for everything, or Muon for the matrices inside the blocks and AdamW for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sanakit.train.config import TrainConfig
from sanakit.train.distributed.sharded import own_rows
from sanakit.train.optim.came import CAME
from sanakit.train.optim.muon import Muon

FUSED = {"qkv": 3, "kv_linear": 2}  # layers whose output rows hold several matrices


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return one optimiser, or two with Muon.

    Vectors (gains, biases), embeddings and tables of shifts and scales are never decayed.

    Every parameter group holds its learning rate before the schedule as "base_lr".
    """
    usual: dict[tuple[float, float], list[nn.Parameter]] = {}  # by factor on the learning rate, and decay
    muon: dict[tuple[float, int], list[nn.Parameter]] = {}  # by factor on the learning rate, and parts
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = config.factor(name)
        if config.optimizer == "muon" and _is_block_matrix(name, parameter):
            parts = next((count for key, count in FUSED.items() if f".{key}." in name), 1)
            muon.setdefault((factor, parts), []).append(parameter)
        else:
            decay = config.weight_decay if _is_decayed(name, parameter) else 0.0
            usual.setdefault((factor, decay), []).append(parameter)

    optimizers: list[torch.optim.Optimizer] = []
    if usual:
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": config.learning_rate * factor, "weight_decay": decay}
            for (factor, decay), parameters in usual.items()
        ]
        if config.optimizer in ("came", "came8bit"):
            eight_bit = config.optimizer == "came8bit"
            optimizers.append(CAME(groups, config.came_betas, eight_bit=eight_bit))
        else:
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


@torch.no_grad()
def state_bytes(optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Return the bytes of the optimisers' states on this rank; 0 before their first step."""
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    tensors = [own_rows(value) for state in states for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _is_decayed(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a matrix or a kernel: a table of shifts and scales is rows of biases."""
    return parameter.ndim > 1 and not any(part in name for part in ("embed", "table"))


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    inside = ".blocks." in f".{name}" or ".layers." in f".{name}"
    flat = parameter.ndim == 2 or (parameter.ndim == 4 and parameter.shape[2:] == (1, 1))
    return inside and flat and "table" not in name
