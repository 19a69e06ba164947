"""Gated delta attention in steps of frames against sums over tokens in float64; its three forms are one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.ops.gated_delta import gated_delta, recurrent_gated_delta

FRAMES, TOKENS, HEADS, WIDTH, VALUES = 7, 5, 2, 6, 3
CHUNKINGS = [None, [7], [1] * 7, [4, 3], [1, 6], [3, 1, 3]]
FORMS = {"recurrent": recurrent_gated_delta, "parallel": gated_delta}


def drawn(dtype: torch.dtype = torch.float64, tokens: int = TOKENS) -> dict[str, Tensor]:
    """Keys as SANA-WM has them: small enough for a bounded step."""
    query, key = (torch.randn(2, FRAMES, tokens, HEADS, WIDTH, dtype=torch.float64) for _ in range(2))
    return {
        "query": query.to(dtype),
        "key": (key * (WIDTH * tokens) ** -0.5).to(dtype),
        "value": torch.randn(2, FRAMES, tokens, HEADS, VALUES, dtype=torch.float64).to(dtype),
        "beta": torch.rand(2, FRAMES, tokens, HEADS, dtype=torch.float64).to(dtype),
        "decay": (0.5 + torch.rand(2, FRAMES, HEADS, dtype=torch.float64) / 2).to(dtype),
    }


def over_tokens(given: dict[str, Tensor], chunks: list[int]) -> Tensor:
    """What each token of a clip gets, written out: every earlier frame's tokens through all transitions.

    The weight of frame s in frame t is the product of the transitions of the frames between, in their order.
    """
    query, key, value, beta, decay = (given[name].double() for name in given)
    chunk = torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor(chunks)).tolist()
    out = torch.zeros(*query.shape[:-1], VALUES, dtype=torch.float64)
    for sample in range(len(query)):
        for head in range(HEADS):
            steps, added = [], []
            for t in range(FRAMES):
                wide = torch.eye(WIDTH, dtype=torch.float64)
                more = torch.zeros(WIDTH, VALUES, dtype=torch.float64)
                for s in range(query.shape[2]):
                    own, weight = key[sample, t, s, head], beta[sample, t, s, head]
                    wide = wide - weight * torch.outer(own, own)
                    more = more + weight * torch.outer(own, value[sample, t, s, head])
                steps.append(decay[sample, t, head] * wide)
                added.append(more)
            for t in range(FRAMES):
                seen = torch.zeros(WIDTH, VALUES, dtype=torch.float64)
                for s in range(FRAMES):
                    if s > t and chunk[s] != chunk[t]:
                        continue
                    way = torch.eye(WIDTH, dtype=torch.float64)
                    for r in range(s + 1, t + 1) if s <= t else range(s - 1, t, -1):
                        way = steps[r] @ way
                    seen = seen + way @ added[s]
                out[sample, t, :, head] = query[sample, t, :, head] @ seen
    return out


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_the_sums_over_tokens(form, chunks, dtype, tolerance):
    given = drawn(dtype)
    out, state = FORMS[form](**given, chunks=chunks)
    assert out.dtype == state.dtype == dtype
    assert apart(out, over_tokens(given, chunks or [FRAMES])) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", [[1] * 7, [4, 3], [2, 2, 3]], ids=str)
def test_chunks_that_hand_on_their_state_are_the_whole(sizes, form, dtype, tolerance):
    given, state, outs = drawn(dtype), None, []
    for number, frames in enumerate(sizes):
        start = sum(sizes[:number])
        part = {name: x[:, start : start + frames] for name, x in given.items()}
        out, state = FORMS[form](**part, state=state)
        outs.append(out)
    whole, last = gated_delta(**given, chunks=sizes)
    assert apart(torch.cat(outs, dim=1), whole) < tolerance
    assert apart(torch.cat(outs, dim=1), over_tokens(given, sizes)) < tolerance
    assert state is not None
    assert apart(state, last) < tolerance


def test_frames_of_one_token_follow_the_delta_rule_of_tokens():
    """Gated DeltaNet (arXiv:2412.06464, eq. 10): S_t = S_(t-1) (g (I - b k k^T)) + b v k^T, S = M^T."""
    given = drawn(tokens=1)
    out, _ = gated_delta(**given, chunks=[1] * FRAMES)
    query, key, value, beta, decay = (given[name] for name in given)
    state = torch.zeros(2, HEADS, VALUES, WIDTH, dtype=torch.float64)
    for t in range(FRAMES):
        k, v, b = key[:, t, 0, :, :, None], value[:, t, 0, :, :, None], beta[:, t, 0, :, None, None]
        kept = decay[:, t, :, None, None] * (torch.eye(WIDTH) - b * k @ k.transpose(-1, -2))
        state = state @ kept + b * v @ k.transpose(-1, -2)
        assert apart(out[:, t, 0], (state @ query[:, t, 0, :, :, None])[..., 0]) < 1e-12


def test_tokens_of_a_frame_do_not_see_each_others_change():
    """One frame alone is linear attention: nothing that its tokens write is corrected."""
    given = {name: x[:, :1] for name, x in drawn().items()}
    out, _ = gated_delta(**given)
    weights = torch.einsum("btshi,btrhi->btshr", given["query"], given["key"])
    expected = torch.einsum("btshr,btrh,btrhe->btshe", weights, given["beta"], given["value"])
    assert apart(out, expected) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_seen_ahead_of_a_chunk(form):
    given = drawn()
    given["value"].requires_grad_()
    out, _ = FORMS[form](**given, chunks=[4, 3])
    (gradient,) = torch.autograd.grad(out[:, 1].sum(), given["value"])
    seen = gradient.abs().sum((0, 2, 3, 4)) > 0
    assert seen.tolist() == [True] * 4 + [False] * 3


@pytest.mark.parametrize("chunks", [None, [4, 3]], ids=str)
def test_both_forms_have_one_gradient(chunks):
    gradients = []
    for form in FORMS.values():
        torch.manual_seed(1)
        given = {name: x.requires_grad_() for name, x in drawn().items()}
        start = torch.randn(2, HEADS, WIDTH, VALUES, dtype=torch.float64).requires_grad_()
        out, state = form(**given, state=start, chunks=chunks)
        gradients.append(torch.autograd.grad((out.sin().sum() + state.cos().sum()), [*given.values(), start]))
    assert all(apart(*pair) < 1e-11 for pair in zip(*gradients, strict=True))


def test_a_decay_of_zero_forgets_and_a_beta_of_zero_writes_nothing():
    given = drawn()
    start = torch.randn(2, HEADS, WIDTH, VALUES, dtype=torch.float64)
    silent, kept = gated_delta(
        **{**given, "beta": 0 * given["beta"], "decay": 0 * given["decay"] + 1}, state=start
    )
    assert apart(kept, start) < 1e-15
    assert apart(silent, torch.einsum("btshd,bhde->btshe", given["query"], start)) < 1e-12
    forgetful = {**given, "decay": 0 * given["decay"]}
    assert torch.equal(gated_delta(**forgetful, state=start)[1], gated_delta(**forgetful)[1])


def test_half_precision_is_widened_and_autocast_changes_nothing():
    given = {name: x.bfloat16() for name, x in drawn().items()}
    with torch.autocast("cpu", torch.bfloat16):
        out, state = gated_delta(**given)
    expected, last = gated_delta(**{name: x.float() for name, x in given.items()})
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)
    assert torch.equal(state, last)
