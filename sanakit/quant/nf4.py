"""Weights in 4-bit NormalFloat (QLoRA, arXiv:2305.14314): 16 levels, the quantiles of a normal distribution.

w ~ level[q] a, with a = max |w| of its block of 64 along K, in float16: 4.25 bits a weight. float16 saves a
quarter of a bit per weight over bitsandbytes' float32. Double quantisation would save 0.37, but needs a
second pass over memory in every product. Levels, blocks and the order of the codes are bitsandbytes'; where
that is installed its kernels multiply (on a GPU fused up to some 1,500 tokens), else torch widens the weight.
Shapes: K values in, N values out, G = ceil(K / 64) blocks.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.errors import MissingExtraError
from sanakit.quant.layer import Product, Quantized, blank, blank_bias, matrix_of

INSTALLED = find_spec("bitsandbytes") is not None
BLOCK = 64
# The code book of the paper's appendix E, in ascending order; 0 is exact, and the positive side has one more.
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)


class NormalFloat4(Quantized):
    """A product whose weight is two NF4 codes a byte, with the largest magnitude of each block of 64."""

    weight: Tensor  # N 32G, uint8; the first of two values lies in the high half
    largest: Tensor  # N G, float16

    def __init__(self, in_features: int, weight: Tensor, largest: Tensor, bias: Tensor | None) -> None:
        super().__init__(in_features, weight.shape[0], bias)
        self.register_buffer("weight", weight)
        self.register_buffer("largest", largest)

    @classmethod
    def of(cls, layer: Product) -> Self:
        """Round the weight of a layer, of any float dtype."""
        weight, bias = matrix_of(layer)
        inputs = weight.shape[1]
        x = F.pad(weight.float(), (0, -inputs % BLOCK)).unflatten(1, (-1, BLOCK))  # N G 64
        largest = x.abs().amax(-1).half()
        unit = torch.where(largest > 0, largest, 1).float()
        levels = torch.tensor(LEVELS, dtype=torch.float32, device=x.device)
        codes = torch.bucketize(x / unit[..., None], (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
        high, low = codes.flatten(1).unflatten(1, (-1, 2)).unbind(-1)
        return cls(inputs, high << 4 | low, largest, bias)

    @classmethod
    def empty(cls, layer: Product) -> Self:
        """Return the same layer without contents, on the meta device."""
        outputs, blocks = layer.out_features, -(-layer.in_features // BLOCK)
        packed = blank(outputs, blocks * BLOCK // 2, dtype=torch.uint8)
        largest = blank(outputs, blocks, dtype=torch.float16)
        return cls(layer.in_features, packed, largest, blank_bias(layer))

    def matrix(self, dtype: torch.dtype, outputs: slice = slice(None)) -> Tensor:
        """N K: multiplied in float32, rounded once."""
        packed = self.weight[outputs]
        codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten(1)  # N 64G
        levels = torch.tensor(LEVELS, dtype=torch.float32, device=packed.device)[codes.int()].unflatten(
            1, (-1, BLOCK)
        )
        return levels.mul_(self.largest[outputs, :, None]).to(dtype).flatten(1)[:, : self.in_features]

    def product(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """... K -> ... N."""
        if not INSTALLED:
            return super().product(x, outputs)
        from bitsandbytes import functional, matmul_4bit

        if not hasattr(torch.ops.bitsandbytes, "gemm_4bit"):  # before 0.50, which read the weight transposed
            raise MissingExtraError("bitsandbytes>=0.50", "quant")
        packed, largest = self.weight[outputs], self.largest[outputs].float()
        state = functional.QuantState(
            largest.flatten(),
            shape=torch.Size((len(packed), largest.shape[1] * BLOCK)),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=x.dtype,
        )
        tokens = F.pad(x, (0, -self.in_features % BLOCK))
        bias = self.bias_of(outputs, x.dtype)
        return matmul_4bit(tokens, packed.reshape(-1, 1), state, bias=bias)
