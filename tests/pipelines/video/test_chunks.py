"""A chunk's steps and its state against the equations written out: all pairs of tokens, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.errors import NumericsError, SettingsError, SizeError, StoppedError
from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.euler import Euler, euler_times
from sanakit.flow.few_step import LONG_SANA_TIMES, FewStep
from sanakit.flow.guidance_kinds import read_kind
from sanakit.flow.solver import State
from sanakit.models.contracts import LatentShape
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import SanaVideo
from sanakit.pipelines.video.chunks import ClipPoint
from tests.models.video.clips import TINY, apart, published, run_published
from tests.models.video.quadratic import masked
from tests.pipelines.video.streams import (
    CAUSAL,
    HEIGHT,
    WIDTH,
    Pointing,
    draw,
    point_tensors,
    same,
    sampler,
    state_tensors,
    tiny,
    words,
)

EXACT = 1e-11  # largest difference over largest value, float64; seen: 5e-14


@pytest.fixture(scope="module")
def model() -> SanaVideo:
    return tiny(torch.float64)


def noise(frames: int, generator: torch.Generator, channels: int = 4) -> Tensor:
    return torch.randn(1, channels, frames, HEIGHT, WIDTH, generator=generator)


def test_a_chunk_takes_four_steps_that_read_the_past_and_one_pass_at_time_zero_that_writes_it():
    stub = Pointing()
    one, prompt, point = sampler(stub), stub.prepare(None), ClipPoint.start(0)
    for frames in (11, 10):
        before, past = len(stub.calls), point.state
        _, point = one.draw(point, frames, prompt)
        calls = stub.calls[before:]
        assert [name for name, *_ in calls] == ["velocity"] * 4 + ["extend"]
        assert [t for _, t, *_ in calls] == [*LONG_SANA_TIMES, 0.0]
        assert all(count == frames and state is past for _, _, count, state in calls)
    assert point.frames == 21


def test_noise_of_all_chunks_is_one_sequence_of_random_numbers():
    """v = x - target, written out in the dtypes of the released sampler."""
    stub, generator, point = Pointing(), draw(5), ClipPoint.start(5)
    one, prompt = sampler(stub), stub.prepare(None)
    for frames in (3, 2, 2):
        x = noise(frames, generator, channels=1)
        for level in (levels := one.solver.times.tolist())[:-1]:
            if level < 1:
                x = (1 - level) * x + level * noise(frames, generator, channels=1)
            x = (x.double() - level * (x - 0.5).double()).float()
        latents, point = one.draw(point, frames, prompt)
        assert torch.equal(latents, x)
    assert len(levels) == 5
    assert torch.equal(point.random, generator.get_state())


@pytest.mark.parametrize("window", [None, 1, 2])
def test_the_sampler_equals_attention_over_all_pairs_of_tokens_in_float64(model, window, monkeypatch):
    """No state at all: earlier chunks are put in again at every step, at time 0, under a mask."""
    solver, generator, point = FewStep(), draw(1), ClipPoint.start(1)
    one, [prompt] = sampler(model, window=window), words(model, 4)
    clip, lengths, unlimited = torch.zeros(1, 4, 0, HEIGHT, WIDTH), [], ClipPoint.start(1)
    text = torch.randn(1, 7, 16, generator=draw(4)).double()
    for number, frames in enumerate((3, 2, 2, 2)):
        lengths.append(frames)
        state = solver.start(noise(frames, generator).double(), generator)
        while not state.done:
            times = torch.tensor([[0.0] * clip.shape[2] + [state.t] * frames])
            given = {"latents": torch.cat([clip, state.sample], dim=2), "t": times, "text": text}
            velocity = masked(model, {**given, "mask": None}, lengths, monkeypatch, window)
            state = solver.advance(state, velocity[:, :, -frames:])
        assert state.random is not None
        generator.set_state(state.random)
        clip = torch.cat([clip, state.sample], dim=2)
        latents, point = one.draw(point, frames, prompt)
        assert latents.dtype == torch.float64
        assert apart(latents, state.sample) < EXACT
        every, unlimited = sampler(model).draw(unlimited, frames, prompt)
        assert torch.equal(every, latents) is (window is None or number <= window)


@torch.no_grad()
def test_the_first_chunk_is_what_diffusers_model_gives_of_it_alone():
    model = tiny()
    theirs, solver = published(model), FewStep()
    first, generator = LatentShape(4, 5, HEIGHT, WIDTH).noise(2)  # the contract of a whole clip's noise
    state = solver.start(first[None], generator)
    text, mask = torch.randn(1, 7, 16, generator=draw(4)), torch.ones(1, 7, dtype=torch.bool)
    while not state.done:
        t = torch.tensor([state.t])
        state = solver.advance(state, run_published(theirs, latents=state.sample, t=t, text=text, mask=mask))
    latents, _ = sampler(model).draw(ClipPoint.start(2), 5, *words(model, 4))
    assert apart(latents, state.sample) < 2e-5


@pytest.mark.parametrize("kind", ["cfg", "interval=0.4-0.9", "apg,momentum=-0.3", "zero-star,zero=1"])
def test_any_solver_with_guidance_keeps_a_past_without_the_prompt_and_one_with_it(model, kind):
    prompt, negative = words(model, 4, 1)
    solver, generator = FlowDPM(dpm_times(4, 3.0), whole=False), draw(7)
    guide, pasts = read_kind(kind), [None, None]
    one = sampler(model, solver=solver, negative=negative, guidance=4.0, kind=guide)
    point = ClipPoint.start(7)
    for frames in (3, 2, 2):
        state, kept = solver.start(noise(frames, generator).double()), None
        while not state.done:
            pair = zip((negative, prompt), pasts, strict=True)
            u, c = (model.velocity(state.sample, state.t, words, state=past) for words, past in pair)
            velocity = c
            if guide.at(state.sigma):
                velocity, kept = guide.combine(4.0, u, c, None, state.index, kept)
            state = solver.advance(state, velocity)
        pair = zip(pasts, (negative, prompt), strict=True)
        pasts = [model.extend(past, state.sample, words) for past, words in pair]
        latents, point = one.draw(point, frames, prompt)
        assert apart(latents, state.sample) < EXACT
    assert torch.equal(point.random, generator.get_state())
    assert point.state is not None
    assert point.state.batch == 2


@pytest.mark.parametrize("guided", [False, True])
def test_known_frames_of_a_chunk_stay_at_time_zero_and_come_back_as_they_are(model, guided):
    prompt, negative = words(model, 4, 1)
    known = noise(2, draw(9)).double()
    settings = {"negative": negative, "guidance": 3.0} if guided else {}
    solver = Euler(euler_times(3, 3.0))
    one = sampler(model, solver=solver, **settings)
    latents, point = one.draw(ClipPoint.start(3), 5, prompt, known)
    assert torch.equal(latents[:, :, :2], known)

    state = solver.start(noise(5, draw(3)).double()[:, :, 2:])
    while not state.done:
        whole = torch.cat([known, state.sample], dim=2)
        times = torch.tensor([[0, 0, state.t, state.t, state.t]])
        u, c = (model.velocity(whole, times, context)[:, :, 2:] for context in (negative, prompt))
        state = solver.advance(state, u + 3 * (c - u) if guided else c)
    assert apart(latents[:, :, 2:], state.sample) < EXACT
    assert point.state is not None
    alone = model.extend(None, latents, prompt)
    assert (alone.blocks[0].last - point.state.blocks[0].last[-1]).abs().max() < 1e-12


def test_finished_latents_leave_the_same_past_as_the_chunk_that_was_drawn(model):
    one, [prompt] = sampler(model), words(model, 4)
    latents, drawn = one.draw(ClipPoint.start(0), 3, prompt)
    start = ClipPoint.start(1)
    followed = one.follow(start, latents, prompt)
    assert same(followed.state, drawn.state)
    assert torch.equal(followed.random, start.random)


def test_a_point_that_was_kept_gives_the_same_future_again_and_other_ones(model):
    one, [prompt, other] = sampler(model), words(model, 4, 2)
    _, kept = one.draw(ClipPoint.start(0), 3, prompt)
    before = [tensor.clone() for tensor in state_tensors(kept.state)]
    first, behind = one.draw(kept, 2, prompt)
    second, _ = one.draw(behind, 2, prompt)
    for _ in range(2):  # undo both chunks
        again, point = one.draw(kept, 2, prompt)
        assert torch.equal(again, first)
        assert torch.equal(one.draw(point, 2, prompt)[0], second)
    branches = [one.draw(kept.with_seed(8), 2, prompt)[0], one.draw(kept, 2, other)[0]]
    for branch in branches:
        assert (branch - first).abs().max() > 0.1
    assert torch.equal(one.draw(kept.with_seed(8), 2, prompt)[0], branches[0])
    assert torch.equal(one.draw(kept, 2, other)[0], branches[1])
    assert all(torch.equal(a, b) for a, b in zip(before, state_tensors(kept.state), strict=True))


@pytest.mark.parametrize("window", [None, 1])
def test_a_new_prompt_renews_what_the_last_chunk_left_behind(model, window):
    prompt, other = words(model, 4, 2)
    one, plain = (sampler(model, window=window, renew=renew) for renew in (True, False))
    first, point = one.draw(ClipPoint.start(0), 3, prompt)
    second, point = one.draw(point, 2, prompt)
    kept = one.follow(one.follow(ClipPoint.start(0), first, prompt), second, prompt)
    assert same(kept.state, point.state)

    # the last chunk alone is added under the other prompt, behind the first one under its own
    renewed = plain.follow(plain.follow(ClipPoint.start(0), first, prompt), second, other)
    expected, _ = plain.draw(replace(renewed, random=point.random), 2, other)
    third, behind = one.draw(point, 2, other)
    assert torch.equal(third, expected)
    assert (plain.draw(replace(point, last=None), 2, other)[0] - third).abs().max() > 1e-3
    once_more, _ = one.draw(behind, 2, other)
    assert torch.equal(once_more, plain.draw(behind, 2, other)[0])  # not a new one any more


@pytest.mark.parametrize("settings", [{}, {"window": 2}, {"renew": False}])
def test_a_point_does_not_grow_with_its_clip(settings):
    model = tiny()
    one, prompts, point = sampler(model, **settings), words(model, 4, 2), ClipPoint.start(0)
    sizes = []
    for number in range(8):
        _, point = one.draw(point, 2, prompts[number % 2])
        own = list(point_tensors(point))
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in own)
        sizes.append(sum(tensor.nbytes for tensor in own))
    assert len(set(sizes[2:])) == 1


def test_16_bits_keep_latents_in_float32_and_stay_near():
    model, half = tiny(), tiny(torch.bfloat16)
    wide, _ = sampler(model).draw(ClipPoint.start(0), 3, *words(model, 4))
    one, [prompt] = sampler(half), words(half, 4)
    latents, point = one.draw(ClipPoint.start(0), 3, prompt)
    assert latents.dtype == torch.float32
    assert ((latents - wide).square().mean().sqrt() / wide.std()).item() < 0.1
    latents, _ = one.draw(point, 2, prompt)
    assert torch.isfinite(latents).all()


def test_steps_and_blocks_are_told_and_may_end_the_drawing():
    model, told, blocks = tiny(), [], []

    def stop(state: State) -> None:
        told.append(state.index)
        if len(told) == 6:
            raise StoppedError("enough")

    one, [prompt] = sampler(model, after_step=stop, after_block=blocks.append), words(model, 4)
    latents, point = one.draw(ClipPoint.start(0), 3, prompt)
    assert (told, len(blocks)) == ([1, 2, 3, 4], 5 * CAUSAL.depth)
    with pytest.raises(StoppedError):
        one.draw(point, 2, prompt)
    assert told == [1, 2, 3, 4, 1, 2]
    assert torch.equal(one.draw(ClipPoint.start(0), 3, prompt)[0], latents)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"height": 5}, SizeError, "multiple of 2, up to 128"),
        ({"width": 0}, SizeError, "multiple of 2, up to 128"),
        ({"height": 130}, SizeError, "multiple of 2, up to 128"),
        ({"window": 0}, SettingsError, "window is 0 chunks"),
        ({"guidance": 4.0}, SettingsError, "guidance = 4 .* needs a negative prompt"),
        ({"kind": read_kind("apg")}, SettingsError, "needs a negative prompt"),
        ({"guidance": -1.0}, SettingsError, "guidance = -1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_drawn(settings, error, said):
    with pytest.raises(error, match=said):
        sampler(tiny(), **settings)


def test_guidance_that_chunks_cannot_have_is_refused(model):
    negative = words(model, 1)[0]
    with pytest.raises(SettingsError, match="omit pag"):
        sampler(model, negative=negative, guidance=3.0, kind=read_kind("pag=2"))
    with pytest.raises(SettingsError, match="negative prompt is for 2 clips"):
        sampler(model, negative=TextContext.join([negative, negative]), guidance=3.0)


def test_chunks_that_do_not_fit_are_refused_in_a_sentence(model):
    one, [prompt, negative] = sampler(model), words(model, 4, 1)
    start, known = ClipPoint.start(0), noise(2, draw(0))
    _, point = one.draw(start, 2, prompt)
    with pytest.raises(SizeError, match="would have 65 latent frames, but this model has positions for 64"):
        one.draw(point, 63, prompt)
    one.check(point, [62], [prompt])
    with pytest.raises(SettingsError, match="A chunk of 0 latent frames is empty"):
        one.draw(point, 0, prompt)
    with pytest.raises(SettingsError, match="2 of them are known: at least one must be drawn"):
        one.draw(start, 2, prompt, known)
    with pytest.raises(SettingsError, match="A prompt is for 2 clips"):
        one.draw(start, 2, TextContext.join([prompt, prompt]))
    for wrong in (known[:, :3], known[..., :4], known[0], known[:, :, :0], known.repeat(2, 1, 1, 1, 1)):
        with pytest.raises(SizeError, match=r"pass \(1, 4, T, 4, 6\), T at least 1"):
            one.follow(start, wrong, prompt)
    for settings in ({"height": 8}, {"negative": negative}, {"window": 1}):
        with pytest.raises(SettingsError, match="The point was made with other settings"):
            sampler(model, **settings).draw(point, 2, prompt)


def test_a_model_that_knows_no_chunks_draws_one_alone():
    model = tiny(config=TINY)
    one, [prompt] = sampler(model), words(model, 4)
    _, point = one.draw(ClipPoint.start(0), 5, prompt)
    with pytest.raises(SettingsError, match="not trained on chunks"):
        one.draw(point, 5, prompt)
    with pytest.raises(SettingsError, match="not trained on chunks"):
        one.check(ClipPoint.start(0), [2, 2], [prompt])


def test_latents_that_are_not_numbers_are_told_with_their_frames():
    stub = Pointing(target=float("nan"))
    with pytest.raises(NumericsError, match="Latent frames 0 to 2 became NaN"):
        sampler(stub).draw(ClipPoint.start(0), 3, stub.prepare(None))
