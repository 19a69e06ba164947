"""Block-causal clips: chunks with a running state against the quadratic form under a mask, and diffusers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError, SizeError
from sanakit.models import layers
from sanakit.models.video.sana_video import ClipState, SanaVideo
from sanakit.models.video.sana_video_blocks import ClipFFN
from sanakit.ops.rotary_linear_attention import RotarySums
from tests.models.video.clips import TINY, apart, inputs, prepared, published, randomised, run_published
from tests.models.video.quadratic import masked

FRAMES = 7
CHUNKINGS = [[7], [3, 2, 2], [1] * 7, [1, 6], [6, 1]]


@pytest.fixture(scope="module")
def model() -> SanaVideo:
    torch.manual_seed(0)
    return randomised(TINY)


def given(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    some = inputs(TINY, grid=(FRAMES, 4, 6))
    return {**some, "latents": some["latents"].to(dtype), "text": some["text"].to(dtype)}


def by_chunks(model: SanaVideo, some: dict[str, Tensor], chunks: list[int]) -> tuple[Tensor, ClipState]:
    """Chunk after chunk, each reading the state of those before; times of the chunks themselves."""
    state, outs = None, []
    context = prepared(model, some)
    times = some["t"].expand(2, FRAMES) if some["t"].ndim == 2 else some["t"][:, None].expand(2, FRAMES)
    for latents, t in zip(some["latents"].split(chunks, 2), times.split(chunks, 1), strict=True):
        outs.append(model.velocity(latents, t, context, state=state))
        state = model.extend(state, latents, context, t)
    assert state is not None
    return torch.cat(outs, dim=2), state


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
@pytest.mark.parametrize("times", ["each clip", "each frame"])
@torch.no_grad()
def test_mask_running_sums_and_state_are_the_same_in_float64(chunks, times, monkeypatch):
    model = randomised(TINY).double()
    some = given()
    if times == "each frame":
        some["t"] = torch.rand(2, FRAMES)
    running = model(**some, chunks=chunks)
    assert apart(running, masked(model, some, chunks, monkeypatch)) < 1e-12
    assert apart(by_chunks(model, some, chunks)[0], running) < 1e-12
    if len(chunks) > 1:
        assert apart(running, model(**some)) > 1e-2


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
@torch.no_grad()
def test_in_float32_they_differ_by_rounding(model, chunks):
    some = given(torch.float32)
    assert apart(by_chunks(model, some, chunks)[0], model(**some, chunks=chunks)) < 5e-6


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
@torch.no_grad()
def test_the_first_chunk_is_what_diffusers_makes_of_it_alone(model, chunks):
    some = given(torch.float32)
    first = {**some, "latents": some["latents"][:, :, : chunks[0]]}
    expected = run_published(published(model), **first)
    assert apart(model(**some, chunks=chunks)[:, :, : chunks[0]], expected) < 2e-5
    assert apart(by_chunks(model, some, chunks)[0][:, :, : chunks[0]], expected) < 2e-5


@torch.no_grad()
def test_the_past_is_read_and_not_changed(model):
    some = given(torch.float32)
    context = prepared(model, some)
    first, second = some["latents"].split([3, 4], dim=2)
    state = model.extend(None, first, context)
    before = [tensor.clone() for block in state.blocks for tensor in (*block.sums, block.last)]
    outs = [model.velocity(second, t, context, state=state) for t in (0.9, 0.1, 0.9)]
    later = model.extend(state, second, context)
    after = [tensor for block in state.blocks for tensor in (*block.sums, block.last)]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[0], outs[1])
    assert (state.frames, later.frames) == (3, 7)


@torch.no_grad()
def test_the_state_does_not_grow_with_the_clip(model):
    def size(state: ClipState) -> int:
        return sum(tensor.numel() for block in state.blocks for tensor in (*block.sums, block.last))

    some = given(torch.float32)
    heads, width = TINY.width // TINY.head_dim, TINY.head_dim
    each = heads * width * width + heads * width + 6 * TINY.width  # sums and one frame of 6 tokens
    context, state = prepared(model, some), None
    for _ in range(5):
        state = model.extend(state, some["latents"][:, :, :2], context)
        assert size(state) == 2 * TINY.depth * each
        for block in state.blocks:  # nothing larger lies behind what is kept
            assert block.last.untyped_storage().nbytes() == block.last.nbytes


@torch.no_grad()
def test_a_chunk_is_placed_by_the_frames_before_it(model):
    """Its state stays valid, since it was rotated by absolute frames; a chunk at another place differs."""
    some = given(torch.float32)
    context, chunk = prepared(model, some), some["latents"][:, :, :3]
    state = model.extend(None, chunk, context)
    moved = ClipState(state.frames + 9, state.height, state.width, state.blocks)
    placed = [model.velocity(chunk, 0.5, context, state=s) for s in (state, moved)]
    assert apart(*placed) > 1e-3


@torch.no_grad()
def test_guided_chunks_read_a_state_for_each_branch(model):
    some = given(torch.float32)
    context, latents = prepared(model, some), some["latents"][:1]
    both = latents.repeat(2, 1, 1, 1, 1)
    state = model.extend(None, both[:, :, :3], context)
    shared = model.velocity(latents[:, :, 3:], 0.5, context, state=state)
    assert apart(shared, model.velocity(both[:, :, 3:], 0.5, context, state=state)) < 1e-6
    own = model.extend(None, latents[:, :, :3], context)
    assert apart(own.blocks[1].last, state.blocks[1].last) < 1e-5
    assert own.batch == 2


@pytest.mark.parametrize("values", [1, 900])
@torch.no_grad()
def test_bands_change_nothing_in_a_state(monkeypatch, model, values):
    some = given(torch.float32)
    out, state = by_chunks(model, some, [3, 4])
    monkeypatch.setattr(layers, "_BAND_VALUES", values)
    banded, other = by_chunks(model, some, [3, 4])
    assert apart(banded, out) < 2e-5
    assert apart(other.blocks[1].last, state.blocks[1].last) < 2e-5
    assert apart(other.blocks[1].sums.products, state.blocks[1].sums.products) < 2e-5


def test_gradients_flow_through_all_chunks(model):
    some = given(torch.float32)
    some["latents"].requires_grad_()
    out = model(**some, chunks=[3, 2, 2])
    (gradient,) = torch.autograd.grad(out[:, :, 3:5].square().sum(), some["latents"])
    per_frame = gradient.abs().sum((0, 1, 3, 4))
    assert (per_frame[:5] > 0).all()
    assert not per_frame[5:].any()  # a chunk does not see the next


@torch.no_grad()
def test_a_convolution_over_time_ends_with_its_chunk():
    ffn = ClipFFN(6, 2.0).double()
    y, before = torch.randn(2, 4, 5, 6).double(), torch.randn(2, 5, 6).double()
    taps = ffn.t_conv.weight[..., 0].unbind(-1)
    alone, behind = ffn.over_time(y, None), ffn.over_time(y, before)
    conv = ffn.t_conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert (alone - y - conv).abs().max() < 1e-13
    assert (behind[:, 0] - alone[:, 0] - before @ taps[0].T).abs().max() < 1e-13
    assert torch.equal(behind[:, 1:], alone[:, 1:])
    assert (alone[:, -1] - y[:, -1] - y[:, -1] @ taps[1].T - y[:, -2] @ taps[0].T).abs().max() < 1e-13
    still = ffn.over_time(y[:, :1], None)[:, 0]
    assert (still - y[:, 0] - y[:, 0] @ taps[1].T).abs().max() < 1e-13


@pytest.mark.parametrize("chunks", [[3, 3], [3, 5], [7, 0], [8, -1], []], ids=str)
def test_chunks_that_do_not_make_the_clip_are_refused(model, chunks):
    with pytest.raises(SettingsError, match=r"chunks are .* but the clip has 7 frames"):
        model(**given(torch.float32), chunks=chunks)


def test_a_state_of_other_sizes_and_a_clip_that_gets_too_long_are_refused(model):
    some = given(torch.float32)
    context, latents = prepared(model, some), some["latents"]
    state = model.extend(None, latents, context)
    with pytest.raises(SettingsError, match="all chunks of a clip have one size"):
        model.velocity(latents.transpose(3, 4), 0.5, context, state=state)
    with pytest.raises(SettingsError, match="The chunk is of 1 clips"):
        model.extend(state, latents[:1], model.prepare([some["text"][0]]))
    for _ in range(8):
        state = model.extend(state, latents, context)
    assert state.frames == 63
    model.velocity(latents[:, :, :1], 0.5, context, state=state)
    with pytest.raises(SizeError, match="reaches 65 frames"):
        model.velocity(latents[:, :, :2], 0.5, context, state=state)


def test_sums_of_a_batch_are_those_of_its_clips(model):
    some = given(torch.float32)
    context = prepared(model, some)
    both = model.extend(None, some["latents"], context)
    for clip in range(2):
        features = some["text"][clip][some["mask"][clip]]
        one = model.extend(None, some["latents"][clip : clip + 1], model.prepare([features]))
        for own, shared in zip(one.blocks, both.blocks, strict=True):
            assert isinstance(own.sums, RotarySums)
            assert apart(own.sums.products, shared.sums.products[clip : clip + 1]) < 1e-5
