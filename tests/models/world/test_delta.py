"""Delta attention with positions and a denominator: all pairs of tokens of one frame, its gates, its past."""

from __future__ import annotations

import torch
from torch import nn

from sanakit.models.world.delta import EPSILON, delta_attention, frame_gates
from sanakit.ops.rotary_linear_attention import rotations
from tests.models.video.sana_video2.written_out import apart


def drawn(frames: int):
    torch.manual_seed(0)
    query, key, value = (torch.rand(2, frames * 6, 2, 12, dtype=torch.float64) for _ in range(3))
    turns = rotations(range(frames), 2, 3, 12).flatten(0, 1)
    beta, decay = torch.rand(2, frames, 6, 2).double(), 0.5 + torch.rand(2, frames, 2).double() / 2
    return query, key * 0.1, value, turns, beta, decay


def test_one_frame_is_weighted_linear_attention():
    query, key, value, turns, beta, decay = drawn(1)
    out, *_ = delta_attention(query, key, value, turns, beta, decay, [1], None)
    turned = [
        torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns[:, None])
        for x in (query, key)
    ]
    weights = torch.einsum("bnhpx,bmhpx,bmh->bhnm", *turned, beta[:, 0])
    totals = torch.einsum("bnhd,bmhd,bmh->bhn", query, key, beta[:, 0])
    wanted = torch.einsum("bhnm,bmhd->bnhd", weights / (totals[..., None] + EPSILON), value)
    assert apart(out, wanted.flatten(2)) < 1e-12


def test_states_handed_on_are_the_whole():
    query, key, value, turns, beta, decay = drawn(5)
    whole, *last = delta_attention(query, key, value, turns, beta, decay, [3, 2], None)
    outs, past = [], None
    for start, end in ((0, 3), (3, 5)):
        tokens = slice(6 * start, 6 * end)
        parts = (query[:, tokens], key[:, tokens], value[:, tokens], turns[tokens])
        out, *past = delta_attention(*parts, beta[:, start:end], decay[:, start:end], [end - start], past)
        outs.append(out)
    assert apart(torch.cat(outs, dim=1), whole) < 1e-12
    assert all(apart(*pair) < 1e-12 for pair in zip(past, last, strict=True))


def test_gates_are_of_tokens_and_of_the_mean_of_a_frame():
    torch.manual_seed(0)
    beta_proj, gate_proj = nn.Linear(8, 2), nn.Linear(8, 2)
    frames, rate, shift = torch.randn(1, 3, 5, 8), torch.randn(2), torch.randn(2)
    beta, decay = frame_gates(frames, beta_proj, gate_proj, rate, shift)
    assert torch.allclose(beta, 1 / (1 + torch.exp(-beta_proj(frames))))
    steps = torch.log1p(torch.exp(gate_proj(frames.sum(2) / 5) + shift))
    assert torch.allclose(decay, torch.exp(-torch.exp(rate) * steps))
