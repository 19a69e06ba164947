"""Muon: matrices learn in all directions at one rate.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); scale by Liu et al. (arXiv:2502.16982). The
gradient of a matrix, with momentum, is replaced by the nearest orthogonal matrix. torch.optim.Muon takes
two-dimensional parameters only; SANA's 1x1 convolutions are four-dimensional and its queries, keys and values
lie fused in one matrix.

Under FSDP2 the momentum stays sharded, and every rank gathers one matrix after the other and orthogonalises
it whole: right, but each rank does all of that work.

Shapes: P matrices fused in a parameter, R C rows and columns of one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sanakit.train.distributed.sharded import check_sharding, cut_rows, gather_rows, is_sharded, own_rows
from sanakit.weights.precision import computes

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic that drives singular values to about 1 in five rounds


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz iteration, for matrices (or 1x1 convolutions).

    groups: each with "params" and "lr", and as "parts" how many matrices lie fused in each of its parameters.
    Raises SettingsError for parameters that are sharded along another axis than their first.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, weight_decay: float) -> None:
        super().__init__(groups, {"parts": 1, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                check_sharding(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient. closure: not used, and in torch's signature only."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum, gradient = own_rows(state["momentum"]), own_rows(parameter.grad)
                momentum.lerp_(gradient, 1 - group["momentum"])
                nesterov = gather_rows(gradient.lerp(momentum, group["momentum"]), parameter).flatten(1)
                matrices = nesterov.unflatten(0, (group["parts"], -1))  # P R C
                if is_sharded(parameter):  # one by one, for the memory that gathered matrices take
                    self._move([(parameter, matrices)], group)
                else:
                    alike.setdefault(tuple(matrices.shape[1:]), []).append((parameter, matrices))
            # Matrices of one shape are orthogonalised together: one by one takes a third longer.
            for pairs in alike.values():
                self._move(pairs, group)

    def _move(self, pairs: list[tuple[nn.Parameter, Tensor]], group: dict[str, Any]) -> None:
        """Update parameters whose matrices, P R C each, have one shape."""
        updates = orthogonalise(torch.cat([matrices for _, matrices in pairs]))
        for (parameter, _), update in zip(pairs, updates.split(group["parts"]), strict=True):
            weight = own_rows(parameter)
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            rows = cut_rows(update.reshape(parameter.shape), parameter)
            weight.add_(rows, alpha=-group["lr"])


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return roughly the nearest semi-orthogonal matrices, scaled to an Adam update (0.2 per entry).

    matrices: R C, or any number of them, ... R C; the same shape comes back.
    """
    a, b, c = NEWTON_SCHULZ
    rows, columns = matrices.shape[-2:]
    x = matrices.reshape(-1, rows, columns)
    if computes(x.device, torch.bfloat16):  # as exact as it has to be
        x = x.bfloat16()
    x = x.mT if rows > columns else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if rows > columns else x
    return x.reshape(matrices.shape).to(matrices.dtype) * (0.2 * max(rows, columns) ** 0.5)
