"""Rotated linear attention against its equation, written out over all pairs of tokens in float64."""

from __future__ import annotations

import cmath
from functools import partial

import pytest
import torch
from torch import Tensor

from sanakit.ops.rotary_linear_attention import (
    axis_channels,
    rotary_attend,
    rotary_sums,
    rotations,
)

tensor64 = partial(torch.tensor, dtype=torch.float64)
HEADS, WIDTH = 3, 12
FRAMES, ROWS, COLUMNS = 4, 3, 2
TOKENS = FRAMES * ROWS * COLUMNS


def rotation(first: int = 0, frames: int = FRAMES, width: int = WIDTH) -> Tensor:
    return rotations(range(first, first + frames), ROWS, COLUMNS, width).flatten(0, 1)


def drawn(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (torch.randn(2, TOKENS, HEADS, WIDTH, dtype=torch.float64) for _ in range(3))
    return query.to(dtype), key.to(dtype), value.to(dtype)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """The rotation as a matrix for every token, 2x2 blocks on its diagonal."""
    matrices = [
        torch.block_diag(*(tensor64([[z.real, -z.imag], [z.imag, z.real]]) for z in row.tolist()))
        for row in turns
    ]
    return torch.einsum("nij,bnhj->bnhi", torch.stack(matrices), x)


def over_pairs(
    query: Tensor, key: Tensor, value: Tensor, turns: Tensor, seen: Tensor | None = None
) -> Tensor:
    """The equation: weights of every query for every key. seen: N N, what may be attended to."""
    query, key = query.double().relu(), key.double().relu()
    weights = torch.einsum("bnhi,bmhi->bhnm", turned(query, turns), turned(key, turns))
    totals = torch.einsum("bnhi,bmhi->bhnm", query, key)
    if seen is not None:
        weights, totals = weights * seen, totals * seen
    return torch.einsum("bhnm,bmhd->bnhd", weights / totals.sum(-1, keepdim=True), value.double())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_sums_give_what_the_equation_over_all_pairs_gives(dtype, tolerance):
    query, key, value = drawn(dtype)
    turns = rotation()
    expected = over_pairs(query, key, value, turns.to(torch.complex128))
    out = rotary_attend(query, rotary_sums(key, value, turns), turns)
    assert out.dtype == dtype
    assert expected.abs().max() > 0.3
    assert (out - expected).abs().max() < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_inputs_are_computed_in_float32(dtype):
    query, key, value = drawn(dtype)
    turns = rotation()
    sums = rotary_sums(key, value, turns)
    assert sums.products.dtype == sums.keys.dtype == torch.float32
    out = rotary_attend(query, sums, turns)
    assert (out - over_pairs(query, key, value, turns)).abs().max() < 1e-5


def test_sums_of_parts_add_up_to_those_of_the_whole():
    _, key, value = drawn()
    turns = rotation()
    whole = rotary_sums(key, value, turns)
    parts = [rotary_sums(key[:, some], value[:, some], turns[some]) for some in (slice(7), slice(7, None))]
    added = parts[1].plus(parts[0])
    assert torch.allclose(added.products, whole.products, atol=1e-13, rtol=0)
    assert torch.allclose(added.keys, whole.keys, atol=1e-13, rtol=0)
    assert whole.plus(None) is whole


def test_gradients_equal_those_of_the_equation():
    leaves = [part.requires_grad_() for part in drawn()]
    turns = rotation()
    weight = torch.randn_like(leaves[0])
    found = torch.autograd.grad(
        (rotary_attend(leaves[0], rotary_sums(leaves[1], leaves[2], turns), turns) * weight).sum(), leaves
    )
    wanted = torch.autograd.grad((over_pairs(*leaves, turns) * weight).sum(), leaves)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-10


def test_only_differences_of_positions_count():
    """Chunks of a clip may use absolute frames: all of them moved on alike changes nothing."""
    query, key, value = drawn()
    outs = [
        rotary_attend(query, rotary_sums(key, value, turns), turns) for turns in (rotation(0), rotation(900))
    ]
    assert (outs[0] - outs[1]).abs().max() < 1e-10
    moved = rotary_attend(query, rotary_sums(key, value, rotation(0)), rotation(1))
    assert (outs[0] - moved).abs().max() > 1e-3


def test_a_token_without_keys_to_attend_to_stays_finite():
    query, key, value = drawn(torch.float32)
    out = rotary_attend(query, rotary_sums(-key.abs(), value, rotation()), rotation())
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (112, (40, 36, 36)),
        (32, (12, 10, 10)),
        (48, (16, 16, 16)),
        (64, (24, 20, 20)),
        (24, (8, 8, 8)),
        (12, (4, 4, 4)),
    ],
)
def test_channels_are_shared_out_among_the_axes_as_published(width, channels):
    assert axis_channels(width) == channels
    assert sum(channels) == width


@pytest.mark.parametrize("width", [12, 32, 112])
def test_angles_are_positions_times_powers_of_the_base_on_each_axis(width):
    table = rotations(range(5, 7), 3, 4, width)
    assert table.dtype == torch.complex128
    assert table.shape == (2, 12, width // 2)
    place = table[1, 2 * 4 + 3].tolist()  # frame 6, row 2, column 3
    wanted = [
        cmath.rect(1.0, position * 10000.0 ** (-2 * pair / channels))
        for position, channels in zip((6, 2, 3), axis_channels(width), strict=True)
        for pair in range(channels // 2)
    ]
    assert max(abs(a - b) for a, b in zip(place, wanted, strict=True)) < 1e-14
