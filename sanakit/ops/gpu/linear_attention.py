"""ReLU linear attention: one pass over keys and values, one over queries; twin: `ops/linear_attention.py`.

A head's matrix of sums and its denominator stay in registers while a program walks over its share of the
tokens. The shares are added up afterwards in a fixed order, so the same input gives the same bits every time.
Shapes: B batch, h heads, N tokens, d head width.
"""

# A launch is not a call that Python's types describe:
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sanakit.ops.gpu import whole

MAX_WIDTH = 128  # d: a d x d matrix of float32 has to stay in registers
BLOCK = 64  # tokens at a time
PROGRAMS = 512  # that keep a GPU busy: shares are as many as it takes to have so many


def _no_sums(key: Tensor, value: Tensor) -> Tensor:
    batch, heads, _, width = key.shape
    return key.new_empty(batch, heads, width + 1, width, dtype=torch.float32)


def _no_mixture(query: Tensor, sums: Tensor, epsilon: float) -> Tensor:
    batch, heads, tokens, width = query.shape
    return query.new_empty(batch, tokens, heads, width).transpose(1, 2)


@whole("(Tensor key, Tensor value) -> Tensor", _no_sums)
def attention_sums(key: Tensor, value: Tensor) -> Tensor:
    """Sum relu(k) v over the tokens, and relu(k) itself in a last row: B h d+1 d, float32.

    key, value: B h N d of one dtype, in any strides but the last, which is 1; d at most MAX_WIDTH.
    """
    batch, heads, tokens, width = key.shape
    pairs, blocks = batch * heads, -(-tokens // BLOCK)
    each = -(-blocks // min(blocks, -(-PROGRAMS // pairs))) * BLOCK  # tokens of a share
    shares = -(-tokens // each)
    # TF32 holds all of bfloat16 and float16: on NVIDIA's tensor cores their products are exact.
    sums = key.new_empty(shares, batch, heads, width + 1, width, dtype=torch.float32)
    with torch.cuda.device_of(key):
        _attention_sums[(pairs, shares)](
            *(key, value, sums, tokens, each, *key.stride()[:3], *value.stride()[:3], heads),
            PRECISION="ieee" if key.dtype == torch.float32 or torch.version.hip else "tf32",
            WIDTH=width,
            PADDED=_padded(width),
            BLOCK=BLOCK,
        )
    return sums[0] if shares == 1 else sums.sum(0)


@whole("(Tensor query, Tensor sums, float epsilon) -> Tensor", _no_mixture)
def attend(query: Tensor, sums: Tensor, epsilon: float) -> Tensor:
    """Let queries (B h N d, the last stride 1) attend to the sums: B h N d in the queries' dtype."""
    batch, heads, tokens, width = query.shape
    y, sums = _no_mixture(query, sums, epsilon), sums.contiguous()
    with torch.cuda.device_of(query):
        _attend[(batch * heads, -(-tokens // BLOCK))](
            *(query, sums, y, tokens, *query.stride()[:3], *y.stride()[:3], heads, epsilon),
            WIDTH=width,
            PADDED=_padded(width),
            BLOCK=BLOCK,
        )
    return y


def _padded(width: int) -> int:
    return max(16, 1 << (width - 1).bit_length())  # a matrix product takes 16 at least


@triton.jit
def _attention_sums(
    key, value, sums, tokens, each, k_batch, k_head, k_token, v_batch, v_head, v_token, heads,
    PRECISION: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pair, share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    key += pair // heads * k_batch + pair % heads * k_head
    value += pair // heads * v_batch + pair % heads * v_head
    d = tl.arange(0, PADDED)
    outer = tl.zeros((PADDED, PADDED), tl.float32)
    total = tl.zeros((PADDED,), tl.float32)
    for first in range(share * each, tl.minimum(share * each + each, tokens), BLOCK):
        n = (first + tl.arange(0, BLOCK)).to(tl.int64)[:, None]
        inside = (n < tokens) & (d < WIDTH)[None, :]
        k = tl.load(key + n * k_token + d[None, :], mask=inside, other=0).to(tl.float32)
        v = tl.load(value + n * v_token + d[None, :], mask=inside, other=0).to(tl.float32)
        k = tl.where(k < 0, 0.0, k)  # unlike a maximum, NaN stays NaN
        outer = tl.dot(tl.trans(k), v, outer, input_precision=PRECISION)
        total += tl.sum(k, axis=0)
    sums += (share * tl.num_programs(0) + pair) * (WIDTH + 1) * WIDTH
    places = d[:, None] * WIDTH + d[None, :]
    tl.store(sums + places, outer, mask=(d < WIDTH)[:, None] & (d < WIDTH)[None, :])
    tl.store(sums + WIDTH * WIDTH + d, total, mask=d < WIDTH)


@triton.jit
def _attend(
    query, sums, y, tokens, q_batch, q_head, q_token, y_batch, y_head, y_token, heads, epsilon,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    query += pair // heads * q_batch + pair % heads * q_head
    y += pair // heads * y_batch + pair % heads * y_head
    sums += pair * (WIDTH + 1) * WIDTH
    d = tl.arange(0, PADDED)
    own = (d < WIDTH)[:, None] & (d < WIDTH)[None, :]
    outer = tl.load(sums + d[:, None] * WIDTH + d[None, :], mask=own, other=0)
    total = tl.load(sums + WIDTH * WIDTH + d, mask=d < WIDTH, other=0)
    n = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)[:, None]
    inside = (n < tokens) & (d < WIDTH)[None, :]
    q = tl.load(query + n * q_token + d[None, :], mask=inside, other=0).to(tl.float32)
    q = tl.where(q < 0, 0.0, q)
    # The sums are of all tokens, beyond what 16 bits hold: float32 products, a hundredth of a step's work.
    mixed = tl.dot(q, outer, input_precision="ieee") / (tl.sum(q * total[None, :], axis=1) + epsilon)[:, None]
    tl.store(y + n * y_token + d[None, :], mixed, mask=inside)
