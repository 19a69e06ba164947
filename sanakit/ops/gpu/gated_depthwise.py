"""SiLU, depthwise 3x3 convolution and gate in one pass over memory; plain twin: `ops/gated_depthwise.py`.

A program takes some columns and channels and walks down the rows. Each row it reads completes the result of
the row above, continues its own and begins the one below. So a value is read, and its SiLU computed, three
times (once per column of taps) instead of nine.
Shapes: B images, R rows, W columns, M channels of each half.
"""

# A launch is not a call that Python's types describe:
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sanakit.ops.gpu import whole

COLUMNS, CHANNELS = 8, 64  # of one program
ROWS = 16  # of the result, which one program walks down; it reads two more


def _no_rows(rows: Tensor, weight: Tensor, bias: Tensor | None, above: int, below: int) -> Tensor:
    batch, height, width, both = rows.shape
    return rows.new_empty(batch, height - above - below, width, both // 2)


@whole("(Tensor rows, Tensor weight, Tensor? bias, int above, int below) -> Tensor", _no_rows)
def gated_depthwise(rows: Tensor, weight: Tensor, bias: Tensor | None, above: int, below: int) -> Tensor:
    """Return value * silu(gate) of a band of rows, B (R - above - below) W M; all as for the plain twin."""
    rows, taps = rows.contiguous(), weight.flatten(1).t().contiguous()  # 9 2M: channels side by side
    y = _no_rows(rows, weight, bias, above, below)
    batch, height, width, half = y.shape
    grid = (batch * -(-width // COLUMNS), -(-height // ROWS), -(-half // CHANNELS))
    with torch.cuda.device_of(rows):
        _gated_depthwise[grid](
            *(rows, taps, taps if bias is None else bias, y),
            *(rows.shape[1], height, width, half, above),
            BIASED=bias is not None,
            COLUMNS=COLUMNS,
            CHANNELS=CHANNELS,
            ROWS=ROWS,
        )
    return y


@triton.jit
def _gated_depthwise(
    rows, taps, bias, y, height_in, height, width, half, above,
    BIASED: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    strips = tl.cdiv(width, COLUMNS)
    picture = (tl.program_id(0) // strips).to(tl.int64)
    column = tl.program_id(0) % strips * COLUMNS + tl.arange(0, COLUMNS)
    top = tl.program_id(1) * ROWS  # of the result
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < half
    taps += channel
    value_bias = tl.zeros((CHANNELS,), tl.float32)
    gate_bias = tl.zeros((CHANNELS,), tl.float32)
    if BIASED:
        value_bias += tl.load(bias + channel, mask=real, other=0).to(tl.float32)
        gate_bias += tl.load(bias + half + channel, mask=real, other=0).to(tl.float32)
    # Sums of the row above the one that is read, of that one, and of the one below.
    value_above = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    value_here, gate_above, gate_here = value_above, value_above, value_above
    for step in range(tl.minimum(ROWS, height - top) + 2):
        row = top + step + above - 1  # read
        value_below = tl.zeros((COLUMNS, CHANNELS), tl.float32) + value_bias[None, :]
        gate_below = tl.zeros((COLUMNS, CHANNELS), tl.float32) + gate_bias[None, :]
        line = rows + (picture * height_in + row) * width * (2 * half)
        for side in tl.static_range(3):
            beside = column + side - 1
            inside = (((beside >= 0) & (beside < width))[:, None] & real[None, :]) & (
                (row >= 0) & (row < height_in)
            )
            places = line + beside[:, None] * (2 * half) + channel[None, :]
            value = tl.load(places, mask=inside, other=0).to(tl.float32)
            gate = tl.load(places + half, mask=inside, other=0).to(tl.float32)
            value *= tl.sigmoid(value)
            gate *= tl.sigmoid(gate)
            value_below += value * _tap(taps, side, half, real)
            value_here += value * _tap(taps, 3 + side, half, real)
            value_above += value * _tap(taps, 6 + side, half, real)
            gate_below += gate * _tap(taps + half, side, half, real)
            gate_here += gate * _tap(taps + half, 3 + side, half, real)
            gate_above += gate * _tap(taps + half, 6 + side, half, real)
        done = top + step - 2  # the row of the result that is complete now
        place = y + (picture * height + done) * width * half + column[:, None] * half + channel[None, :]
        inside = ((column < width)[:, None] & real[None, :]) & (done >= top)
        tl.store(place, value_above * gate_above * tl.sigmoid(gate_above), mask=inside)
        value_above, value_here, gate_above, gate_here = value_here, value_below, gate_here, gate_below


@triton.jit
def _tap(taps, number, half, real):
    return tl.load(taps + number * (2 * half), mask=real, other=0).to(tl.float32)[None, :]
