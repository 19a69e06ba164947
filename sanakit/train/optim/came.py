"""CAME: Adam's steps with the second moments of a matrix kept as one row and one column; and its 8-bit form.

Source: Luo et al. 2023 (arXiv:2307.02047), algorithm 2. Beside Adafactor's factored second moment, CAME keeps
a second factored average, of how far the updates stray from their momentum; where they stray the step is
small. Its averages start at zero and are not corrected for that, as published: the first steps are about ten
times the learning rate long, so warm up. Vectors are not factored and get no such confidence, as in the
authors' code. A convolution of O I h w is taken as a matrix of O x (I h w).

CAME in 8 bits (SANA-1.5, arXiv:2501.18427) stores the momentum, the only state of a matrix's size, as one
byte per entry with a scale per block of at most 2048 entries. Rows, columns and tensors under 16384 entries
are not quantised. Blocks do not cross rows here, so that shards of FSDP2 hold whole blocks and a checkpoint
fits any number of ranks.

Shapes: R C rows and columns of a parameter's matrix (under FSDP2, R: of this rank's rows), N blocks of a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import PrecisionError
from sanakit.train.distributed.sharded import add_over_shards, check_sharding, keep_rows, keep_whole, own_rows

BETAS = (0.9, 0.999, 0.9999)  # of momentum, second moment and instability
EPSILONS = (1e-30, 1e-16)  # added to squared gradients and to squared residuals
CLIP = 1.0  # largest root mean square of an update before momentum
BLOCK = 2048  # entries that share a scale, at most
SMALLEST = 16384  # entries of a tensor from which on its momentum takes 8 bits
LEVELS = 127  # codes run from -127 to 127


class CAME(torch.optim.Optimizer):
    """Confidence-guided steps with factored second moments, for all parameters of a model.

    groups: each with "params", "lr" and "weight_decay" (decoupled). betas: decay of the momentum, of the
    second moment and of the instability, each in [0, 1). eight_bit: keep the momentum of large matrices in 8
    bits. Raises PrecisionError for parameters in 16 bits, SettingsError for those that are sharded along
    another axis than their first.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        betas: tuple[float, float, float] = BETAS,
        *,
        eight_bit: bool = False,
    ) -> None:
        super().__init__(groups, {"betas": betas, "weight_decay": 0.0, "eight_bit": eight_bit})
        for group in self.param_groups:
            for parameter in group["params"]:
                check_sharding(parameter)
                if parameter.dtype not in (torch.float32, torch.float64):
                    raise PrecisionError(
                        f"CAME takes float32 weights, not {parameter.dtype}, which loses its small steps: "
                        "keep the master weights in float32 and compute in bf16."
                    )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient. closure: not used, and in torch's signature only."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if not self.state[parameter]:
                    self.state[parameter].update(self._start(parameter, group["eight_bit"]))
                weight = own_rows(parameter)
                direction = self._direction(parameter, own_rows(parameter.grad), group["betas"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction.reshape(weight.shape), alpha=-group["lr"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state; see torch.optim.Optimizer."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "codes" in state:  # torch has cast all states to their parameter's dtype
                state["codes"] = state["codes"].to(torch.int8)

    def _start(self, parameter: nn.Parameter, eight_bit: bool) -> dict[str, Tensor]:
        """States of a parameter before its first step: all zero."""
        if parameter.ndim < 2:
            return {"momentum": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        matrix = own_rows(parameter).flatten(1)
        row, column = matrix.new_zeros(matrix.shape[0]), matrix.new_zeros(matrix.shape[1])
        state = {
            "row": keep_rows(row, parameter),
            "column": keep_whole(column, parameter),
            "residual_row": keep_rows(row.clone(), parameter),
            "residual_column": keep_whole(column.clone(), parameter),
        }
        contiguous = torch.contiguous_format  # of convolutions in another layout, flatten would copy
        if eight_bit and parameter.numel() >= SMALLEST:
            state["codes"] = torch.zeros_like(parameter, dtype=torch.int8, memory_format=contiguous)
            state["scales"] = keep_rows(row.new_zeros(len(row), _blocks(len(column))), parameter)
        else:
            state["momentum"] = torch.zeros_like(parameter, memory_format=contiguous)
        return state

    def _direction(
        self, parameter: nn.Parameter, gradient: Tensor, betas: tuple[float, float, float]
    ) -> Tensor:
        """Bring the states up to date and return the step at rate 1, of this rank's rows, as a matrix."""
        state = {name: own_rows(kept) for name, kept in self.state[parameter].items()}
        if parameter.ndim < 2:
            square = state["square"].lerp_(gradient.square().add_(EPSILONS[0]), 1 - betas[1])
            update = _clip(gradient * square.rsqrt(), parameter)
            return state["momentum"].lerp_(update, 1 - betas[0])

        gradient = gradient.flatten(1)
        _follow(state["row"], state["column"], gradient, EPSILONS[0], betas[1], parameter)
        update = _clip(_divide_by_root(gradient, state["row"], state["column"]), parameter)
        if "codes" in state:
            codes = state["codes"].flatten(1)
            momentum = dequantise(codes, state["scales"]).lerp_(update, 1 - betas[0])
            new_codes, new_scales = quantise(momentum)
            codes.copy_(new_codes)
            state["scales"].copy_(new_scales)
        else:
            momentum = state["momentum"].flatten(1).lerp_(update, 1 - betas[0])
        residual_row, residual_column = state["residual_row"], state["residual_column"]
        _follow(residual_row, residual_column, update - momentum, EPSILONS[1], betas[2], parameter)
        return _divide_by_root(momentum, residual_row, residual_column)


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Store a matrix (R C) as codes (R C, int8) and scales (R N): value = code x scale.

    A row is cut into blocks of one width, at most 2048; the largest magnitude of a block becomes 127. An
    entry is off by at most half a scale, 1/254 of that magnitude. Evenly spaced levels suffice for CAME,
    whose updates are normalised by row and column already.
    """
    columns = values.shape[1]
    count = _blocks(columns)
    width = -(-columns // count)
    blocks = F.pad(values, (0, count * width - columns)).unflatten(1, (count, width))
    scales = blocks.abs().amax(2) / LEVELS
    divisors = scales.clamp(min=torch.finfo(scales.dtype).tiny)
    codes = (blocks / divisors[..., None]).round_().to(torch.int8)
    return codes.flatten(1)[:, :columns], scales


def dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the matrix (R C) that `quantise` stored as codes (R C) and scales (R N)."""
    columns, count = codes.shape[1], scales.shape[1]
    return codes * scales.repeat_interleave(-(-columns // count), 1)[:, :columns]


def _blocks(columns: int) -> int:
    return -(-columns // BLOCK)


def _follow(row: Tensor, column: Tensor, values: Tensor, eps: float, beta: float, like: nn.Parameter) -> None:
    """Move the averages of squared rows and columns towards those of `values` (R C)."""
    squares = values.square().add_(eps)
    row.lerp_(squares.mean(1), 1 - beta)
    column.lerp_(add_over_shards(squares.sum(0), like) / like.shape[0], 1 - beta)


def _divide_by_root(values: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Divide by the root of the second moment, which row and column approximate as row x column / mean."""
    # The mean over rows of row means is that over columns of column means, which each rank knows.
    return values * (row / column.mean()).rsqrt_()[:, None] * column.rsqrt()


def _clip(update: Tensor, like: nn.Parameter) -> Tensor:
    """Shrink an update whose root mean square, over all shards, is above 1."""
    mean = add_over_shards(update.square().sum(), like) / like.numel()
    return update.div_((mean.sqrt() / CLIP).clamp_(min=1.0))
