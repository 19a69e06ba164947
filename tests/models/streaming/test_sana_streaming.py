"""SANA-Streaming whole: the equations in float64, whole and in chunks, the ways of calling it, refusals."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import SettingsError, SizeError
from sanakit.models.streaming.config import SANA_STREAMING_2B
from sanakit.models.streaming.sana_streaming import SanaStreaming
from tests.models.streaming.edits import CHUNKS, GRID, TINY, VARIANTS, inputs, randomised, written_out
from tests.models.video.sana_video2.written_out import apart


@pytest.fixture(scope="module")
def model() -> SanaStreaming:
    torch.manual_seed(0)
    return randomised(TINY)


def prepared(model: SanaStreaming, some: dict[str, torch.Tensor]):
    return model.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])


def piece(some: dict[str, torch.Tensor], start: int, count: int) -> tuple[torch.Tensor, ...]:
    return tuple(some[name][:, :, start : start + count] for name in ("latents", "source"))


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_velocities_are_those_of_the_equations(name):
    torch.manual_seed(1)
    model, some = randomised(VARIANTS[name]), inputs(VARIANTS[name])
    wanted = written_out(model, some)
    assert apart(model(**some), wanted) < 2e-5
    wide = {key: part.double() if part.is_floating_point() else part for key, part in some.items()}
    assert apart(model.double()(**wide), wanted) < 1e-9


@torch.no_grad()
def test_chunks_are_those_of_the_equations(model):
    some = inputs(TINY)
    assert apart(model(**some, chunks=CHUNKS), written_out(model, some, CHUNKS)) < 2e-5


@torch.no_grad()
def test_states_handed_on_give_what_training_sees_of_chunks(model):
    some = inputs(TINY)
    context, whole, state, start = prepared(model, some), model(**some, chunks=CHUNKS), None, 0
    for count in CHUNKS:
        latents, source = piece(some, start, count)
        t = some["t"][:, start : start + count]
        out = model.velocity(latents, t, context, source=source, state=state)
        assert apart(out, whole[:, :, start : start + count]) < 2e-5
        state = model.extend(state, latents, context, t, source=source)
        start += count
        assert (state.frames, state.batch) == (start, 2)


@torch.no_grad()
def test_the_state_does_not_grow_from_the_third_chunk_on(model):
    some = inputs(TINY, batch=1, grid=(12, 2, 3))
    context, state, sizes = prepared(model, some), None, []

    def size(part) -> int:
        return part.numel() if isinstance(part, torch.Tensor) else sum(map(size, part or ()))

    for start in range(0, 12, 2):
        latents, source = piece(some, start, 2)
        state = model.extend(state, latents, context, source=source)
        sizes.append(sum(size(block.attention) + size(block.last) for block in state.blocks))
    assert sizes[0] < sizes[1] == sizes[2] == sizes[5]


@torch.no_grad()
def test_sampling_gives_what_training_sees(model):
    some = inputs(TINY)
    context = prepared(model, some)
    out = model.velocity(some["latents"], some["t"], context, source=some["source"], chunks=CHUNKS)
    assert apart(out, model(**some, chunks=CHUNKS)) < 2e-5
    assert (
        apart(model.velocity(some["latents"], some["t"], context, source=some["source"]), model(**some))
        < 2e-5
    )


@torch.no_grad()
def test_guidance_shares_latents_and_their_source(model):
    some = inputs(TINY)
    context, latents, source, t = (
        prepared(model, some),
        some["latents"][:1],
        some["source"][:1],
        some["t"][:1],
    )
    shared = model.velocity(latents, t, context, source=source)
    both = model.velocity(latents.repeat(2, 1, 1, 1, 1), t.repeat(2, 1), context, source=source)
    assert apart(shared, both) < 1e-5
    states = [model.extend(None, x, context, source=source) for x in (latents, latents.repeat(2, 1, 1, 1, 1))]
    ahead = [
        model.velocity(latents.repeat(2, 1, 1, 1, 1), 0.5, context, source=source, state=s) for s in states
    ]
    assert apart(*ahead) < 1e-5


@torch.no_grad()
def test_the_source_of_each_frame_matters_there_and_its_time(model):
    some = inputs(TINY)
    out = model(**some)
    assert apart(model(**{**some, "source": some["source"].flip(2)}), out) > 1e-2
    cut, whole = (model(**{**some, "t": torch.full((2,), t)}) for t in (0.5007, 0.5))
    assert torch.equal(cut, whole)


def test_gradients_reach_every_weight(model):
    model(**inputs(TINY)).square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in model.parameters())
    taps = model.blocks[3].attn.q.weight.grad
    assert taps[..., 1].any()
    assert not taps[..., ::2].any(), "of three taps the middle one is used"
    model.zero_grad()


@torch.no_grad()
def test_first_weights_forget_almost_nothing():
    torch.manual_seed(1)
    model, some = SanaStreaming(TINY), inputs(TINY)
    model.init_weights()
    assert torch.isfinite(model(**some)).all()
    delta = model.blocks[0].attn
    assert (delta.dt_bias.unique().item(), delta.beta_proj.bias.unique().item()) == (-8.0, 5.0)
    assert (
        delta.output_gate.bias.unique().item() == model.blocks[3].attn.output_gate.bias.unique().item() == 1.0
    )
    assert not delta.output_gate.weight.any()


def test_the_released_size_has_as_many_parameters_as_its_tensors_say():
    with torch.device("meta"):
        model = SanaStreaming(SANA_STREAMING_2B)
    width, hidden = 2240, 6720
    shared = 2 * width + 2 * (width * width + width) + width * width  # norms, gate and projection, values
    delta = shared + 2 * width * width + 2 * (20 * width + 20) + 2 * 20
    softmax = shared + 2 * 3 * width * width
    cross = 4 * (width * width + width) + 2 * width
    mlp = 2 * hidden * (width + 1) + 2 * hidden * 10 + hidden * width + 3 * width * width
    rest = 256 * width + width + (2304 + 1) * width + (width + 1) * width + width  # latents, text, its norm
    rest += 257 * width + (width + 1) * width + (width + 1) * 6 * width + 2 * width + (width + 1) * 128
    wanted = 15 * delta + 5 * softmax + 20 * (cross + mlp + 6 * width) + rest
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": torch.zeros(2, 4, 6, 2, 3)}, "The source has latents of the shape"),
        ({"source": torch.zeros(3, 4, *GRID)}, "The source has latents of the shape"),
        ({"latents": torch.zeros(2, 8, *GRID)}, "are not a clip's: B, 4 channels"),
        ({"t": torch.zeros(2, 3)}, "t has the shape"),
        ({"chunks": [3, 3]}, "7 in all"),
    ],
)
def test_what_does_not_fit_is_refused(model, change, said):
    with pytest.raises((SettingsError, SizeError), match=said):
        model(**inputs(TINY) | change)


@torch.no_grad()
def test_weights_that_see_whole_clips_have_no_chunks(model):
    whole, some = randomised(VARIANTS["bidirectional"]), inputs(TINY)
    context, source = prepared(whole, some), some["source"]
    with pytest.raises(SettingsError, match="These weights see whole clips"):
        whole(**some, chunks=CHUNKS)
    with pytest.raises(SettingsError, match="These weights are bidirectional"):
        whole.extend(None, some["latents"], context, source=source)
    state = model.extend(None, some["latents"], prepared(model, some), source=source)
    with pytest.raises(SettingsError, match="These weights are bidirectional"):
        whole.velocity(some["latents"], 0.5, context, source=source, state=state)
    with pytest.raises(SettingsError, match="one chunk at a time"):
        model.velocity(some["latents"], 0.5, prepared(model, some), source=source, state=state, chunks=CHUNKS)
    with pytest.raises(SettingsError, match="no guidance scale"):
        model.velocity(some["latents"], 0.5, prepared(model, some), 4.5, source=source)
