"""Worlds in chunks: the cached stream against the whole under masks, written out in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError, SizeError
from sanakit.models.world import attention
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM, WorldState
from sanakit.ops.gated_delta import recurrent_gated_delta
from tests.models.world.worlds import TINY, apart, inputs, randomised, seen

STREAM = replace(TINY, variant="streaming", max_positions=64, depth=2, softmax_every=2)
FRAMES = 10
GRID = (FRAMES, 2, 3)
CHUNKINGS = [[10], [4, 3, 3], [1, 2, 1, 6]]


def given(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    some = inputs(TINY, grid=GRID)
    return {name: part.to(dtype) if part.is_floating_point() else part for name, part in some.items()}


def wide(config: SanaWMConfig = STREAM, seed: int = 0) -> SanaWM:
    torch.manual_seed(seed)
    return randomised(config).double()


def by_chunks(
    model: SanaWM, some: dict[str, Tensor], chunks: list[int], steered: bool = True
) -> tuple[Tensor, WorldState]:
    """Chunk after chunk, each reading the state of those before; times of the chunks themselves."""
    context = model.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])
    state, outs, start = None, [], 0
    for count in chunks:
        now = slice(start, start + count)
        latents, t = some["latents"][:, :, now], some["t"][:, now]
        path = (some["cameras"][:, now], some["plucker"][:, :, now]) if steered else (None, None)
        cameras = model.prepare_cameras(*path, GRID[1:])
        outs.append(model.velocity(latents, t, context, state=state, cameras=cameras))
        state = model.extend(state, latents, context, t, cameras=cameras)
        start += count
    assert state is not None
    return torch.cat(outs, dim=2), state


def written_out(monkeypatch: pytest.MonkeyPatch, chunks: list[int], config: SanaWMConfig) -> None:
    """Attention as it is defined: delta steps in their order, and who sees whom chunk by chunk."""
    monkeypatch.setattr(attention, "gated_delta", recurrent_gated_delta)

    def attend(self, query, keys, values, scale, mask):
        key, value = torch.cat(keys, dim=1), torch.cat(values, dim=1)
        tokens = [count * GRID[1] * GRID[2] for count in chunks]
        ends = torch.tensor(tokens).cumsum(0).tolist()
        parts = [slice(end - count, end) for count, end in zip(tokens, ends, strict=True)]
        outs = []
        for number, now in enumerate(parts):
            first = max(number - config.recent_chunks, 0)
            shown = sorted({*range(min(number, config.sink_chunks)), *range(first, number + 1)})
            own_key, own_value = (torch.cat([x[:, parts[n]] for n in shown], dim=1) for x in (key, value))
            scores = torch.einsum("bnhd,bmhd->bhnm", query[:, now], own_key) * scale
            outs.append(torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), own_value))
        return torch.cat(outs, dim=1)

    monkeypatch.setattr(attention.SoftmaxAttention, "_attend", attend)


@pytest.mark.parametrize(
    ("chunks", "steered"), [*((chunks, True) for chunks in CHUNKINGS), ([4, 3, 3], False)], ids=str
)
@torch.no_grad()
def test_a_stream_is_the_whole_under_a_mask_in_float64(chunks, steered, monkeypatch):
    model, some = wide(), given()
    if not steered:
        del some["cameras"], some["plucker"]
    whole = model(**some, chunks=chunks)
    assert apart(by_chunks(model, some, chunks, steered)[0], whole) < 1e-11
    written_out(monkeypatch, chunks, STREAM)
    assert apart(whole, model(**some, chunks=chunks)) < 1e-11
    if len(chunks) > 1:
        monkeypatch.undo()
        assert apart(whole, model(**some)) > 1e-2


@pytest.mark.parametrize(("sink", "recent"), [(0, 1), (1, 0), (2, 2), (0, 0), (0, 100)])
@torch.no_grad()
def test_any_window_of_chunks_is_the_same_mask(sink, recent, monkeypatch):
    config = replace(STREAM, sink_chunks=sink, recent_chunks=recent)
    model, some, chunks = wide(config), given(), [2, 1, 2, 2, 3]
    streamed, state = by_chunks(model, some, chunks)
    kept = state.blocks[1].attention
    assert not isinstance(kept, attention.DeltaState)
    assert len(kept) == min(sink + recent, len(chunks))
    written_out(monkeypatch, chunks, config)
    assert apart(streamed, model(**some, chunks=chunks)) < 1e-11


@torch.no_grad()
def test_in_float32_they_differ_by_rounding():
    torch.manual_seed(0)
    model, some = randomised(STREAM), given(torch.float32)
    assert apart(by_chunks(model, some, [4, 3, 3])[0], model(**some, chunks=[4, 3, 3])) < 2e-5


@torch.no_grad()
def test_weights_for_chunks_see_all_frames_in_softmax_attention_alone(monkeypatch):
    """The teacher of streaming: delta attention looks ahead inside a chunk, softmax attention everywhere."""
    some, chunks = given(), [4, 3, 3]
    flat = wide(replace(STREAM, variant="chunk_causal", softmax_every=0))
    changed = {**some, "latents": some["latents"].clone()}
    changed["latents"][:, :, 7:] += 1
    outs = [flat(**part, chunks=chunks)[:, :, :7] for part in (some, changed)]
    assert torch.equal(*outs)
    mixed = wide(replace(STREAM, variant="chunk_causal"))
    outs = [mixed(**part, chunks=chunks)[:, :, :7] for part in (some, changed)]
    assert apart(*outs) > 1e-3
    context = mixed.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])
    cameras = mixed.prepare_cameras(some["cameras"], some["plucker"], GRID[1:])
    sampled = mixed.velocity(some["latents"], some["t"], context, cameras=cameras, chunks=chunks)
    assert apart(sampled, mixed(**some, chunks=chunks)) < 1e-11
    with pytest.raises(SettingsError, match="These weights are chunk_causal"):
        mixed.extend(None, some["latents"], context, cameras=cameras)


@torch.no_grad()
def test_one_chunk_of_weights_for_chunks_is_the_bidirectional_model():
    """Heads of 32 channels are not padded, so that the scale of scores is the same, too."""
    some = given()
    outs = [
        wide(replace(STREAM, variant=variant))(**some)
        for variant in ("bidirectional", "chunk_causal", "streaming")
    ]
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@torch.no_grad()
def test_keys_of_cameras_see_earlier_chunks_in_the_teacher_and_not_in_a_stream():
    some, found = given(), {}
    for variant in ("chunk_causal", "streaming"):
        model = wide(replace(STREAM, variant=variant, softmax_every=0, depth=1))
        found[variant] = model(**some, chunks=[4, 3, 3])
        model.blocks[0].attn.conv_k_cam.weight[..., :-1] = 0
        found[f"{variant}, own frame"] = model(**some, chunks=[1] * 10)
    assert apart(found["chunk_causal"], found["streaming"]) > 1e-3
    assert torch.equal(found["chunk_causal, own frame"], found["streaming, own frame"])


@torch.no_grad()
def test_a_kept_state_is_a_snapshot_to_go_back_to():
    model, some = wide(), given()
    context = model.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])

    def path(now: slice, start: float = 0.0):
        other = seen(GRID, start)
        return model.prepare_cameras(other.cameras[None, now], other.plucker[None, :, now], GRID[1:])

    first, then, later = (slice(0, 4), slice(4, 7), slice(7, 10))
    latents = some["latents"]
    state = model.extend(None, latents[:, :, first], context, cameras=path(first))
    kept = [tensor.clone() for tensor in tensors(state)]
    right = model.velocity(latents[:, :, then], 0.5, context, state=state, cameras=path(then))
    on = model.extend(state, latents[:, :, then], context, cameras=path(then))
    model.extend(on, latents[:, :, later], context, cameras=path(later))
    left = model.velocity(latents[:, :, then], 0.5, context, state=state, cameras=path(then, 0.7))
    again = model.velocity(latents[:, :, then], 0.5, context, state=state, cameras=path(then))
    assert torch.equal(again, right)
    assert apart(left, right) > 1e-3
    assert all(torch.equal(*pair) for pair in zip(tensors(state), kept, strict=True))
    assert (state.frames, on.frames) == (4, 7)


def tensors(state: WorldState) -> list[Tensor]:
    found = []
    for block in state.blocks:
        parts = [block.attention] if isinstance(block.attention, attention.DeltaState) else block.attention
        found += [x for part in parts for x in part if x is not None]
        found.append(block.last)
    return found


@torch.no_grad()
def test_a_state_does_not_grow_with_its_world():
    model, some, sizes = wide(), given(), []
    context = model.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])
    cameras = model.prepare_cameras(some["cameras"][:, :3], some["plucker"][:, :, :3], GRID[1:])
    state = None
    for _ in range(5):
        state = model.extend(state, some["latents"][:, :, :3], context, cameras=cameras)
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors(state)))
    assert sizes[0] < sizes[1] == sizes[2] == sizes[4]
    tokens, heads, d = 3 * 6, TINY.width // TINY.head_dim, TINY.head_dim
    delta = heads * (2 * d * d + d) + 3 * 6 * TINY.width + 6 * TINY.width
    softmax = 2 * 4 * tokens * TINY.width + 6 * TINY.width
    assert sizes[4] == 8 * 2 * (delta + softmax)  # bytes of float64, clips, a block of each kind


@torch.no_grad()
def test_guided_chunks_read_a_state_for_each_branch():
    model, some = wide(), given()
    context = model.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])
    first, then = ((slice(0, 4)), slice(4, 7))
    latents = some["latents"][:1]
    views = [
        model.prepare_cameras(some["cameras"][:1, now], some["plucker"][:1, :, now], GRID[1:])
        for now in (first, then)
    ]
    shared = model.extend(None, latents[:, :, first], context, cameras=views[0])
    both = model.extend(None, latents.repeat(2, 1, 1, 1, 1)[:, :, first], context, cameras=views[0])
    assert shared.batch == 2
    assert all(apart(*pair) < 1e-11 for pair in zip(tensors(shared), tensors(both), strict=True))
    outs = [
        model.velocity(part[:, :, then], 0.5, context, state=shared, cameras=views[1])
        for part in (latents, latents.repeat(2, 1, 1, 1, 1))
    ]
    assert apart(*outs) < 1e-11


def test_gradients_flow_through_all_chunks():
    model, some = wide(), given()
    some["latents"].requires_grad_()
    out = model(**some, chunks=[4, 3, 3])
    (gradient,) = torch.autograd.grad(out[:, :, 4:7].square().sum(), some["latents"])
    per_frame = gradient.abs().sum((0, 1, 3, 4))
    assert (per_frame[:7] > 0).all()
    assert not per_frame[7:].any()  # a chunk does not see the next


@torch.no_grad()
def test_states_and_chunks_that_do_not_fit_are_refused():
    model, some = wide(), given()
    context = model.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])
    cameras = model.prepare_cameras(some["cameras"], some["plucker"], GRID[1:])
    state = model.extend(None, some["latents"], context, cameras=cameras)
    for said, call in {
        "Chunks of one world have all poses": {},
        "With a state there is one chunk": {"cameras": cameras, "chunks": [5, 5]},
    }.items():
        with pytest.raises(SettingsError, match=said):
            model.velocity(some["latents"], 0.5, context, state=state, **call)
    with pytest.raises(SettingsError, match=r"chunks are \[5, 4\]"):
        model(**some, chunks=[5, 4])
    with pytest.raises(SettingsError, match="all chunks of a clip have one size"):
        model.velocity(some["latents"].transpose(3, 4), 0.5, context, state=state)
    for _ in range(5):
        state = model.extend(state, some["latents"], context, cameras=cameras)
    with pytest.raises(SizeError, match="reaches 70 frames"):
        model.velocity(some["latents"], 0.5, context, state=state, cameras=cameras)
