"""Derivatives of a network along a direction, without a graph: forward differentiation, or two evaluations.

Forward differentiation (`torch.func.jvp`) is exact to rounding and costs about two evaluations. Our kernels
decline in it, and softmax attention has to take its plain form: torch's fused ones know no forward
derivative. Central differences need two evaluations and nothing of the network, but lose digits.
Shapes: B samples, ... any further axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Network = Callable[[Tensor, Tensor], Tensor]  # samples (B, ...) and one number each (B,) -> (B, ...)
Kind = Literal["exact", "difference"]

STEP = 1e-2  # of central differences, in units of the direction; of 3e-3 to 1e-1 the best in float32


@torch.no_grad()
def derivative_along(
    network: Network,
    point: tuple[Tensor, Tensor],
    direction: tuple[Tensor, Tensor],
    kind: Kind = "exact",
    step: float = STEP,
) -> Tensor:
    """Return the derivative of a network's result at a point along a direction: (B, ...), without a graph.

    point, direction: samples (B, ...) and numbers (B,). kind: "exact": by forward differentiation, in the
    precision of the surrounding autocast. "difference": (f(p + h d) - f(p - h d)) / 2h, without autocast,
    whose rounding would be all that is left. step: h.
    """
    device = point[0].device.type
    if kind == "difference":
        with torch.autocast(device, enabled=False):
            ahead, behind = (
                network(point[0] + h * direction[0], point[1] + h * direction[1]) for h in (step, -step)
            )
        return (ahead - behind) / (2 * step)
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(network, point, direction)[1]
