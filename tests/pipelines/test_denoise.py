"""A batch of unlike samples: each goes its own way, as it would alone, whatever happens to its neighbours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import MemoryLimitError, NumericsError
from sanakit.flow.path import interpolate
from sanakit.models.dc_ae import DCAE
from sanakit.pipelines.control import InitialImage
from sanakit.pipelines.denoise import Batch, Sample, encode_source
from sanakit.pipelines.source import make_source
from sanakit.pipelines.text_to_image import TextToImage
from tests.pipelines.noises import seeded_noise
from tests.pipelines.samples import apart, begun, finish

SIZE = {"width": 96, "height": 64}
GRID = (2, 3)
SCALING = 0.01
TOLERANCE = 1e-5  # of the largest number compared
KEPT = 1e-6


@pytest.fixture(scope="module")
def pipe(folder) -> TextToImage:
    """With latents of about the size of the noise, as real ones are."""
    pipe = TextToImage.from_pretrained(folder, device="cpu", encoder=True)
    pipe.autoencoder.config = replace(pipe.autoencoder.config, scaling_factor=SCALING)
    return pipe


def picture() -> Image.Image:
    return Image.radial_gradient("L").convert("RGB").resize((96, 64))


def half_masked(pipe: TextToImage, strength: float) -> InitialImage:
    """The left third of 96 x 64 px, one column of latents, is redrawn."""
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 32, 64))
    return make_source(pipe.spec, picture(), strength, mask=mask, **SIZE)


def crowd(pipe: TextToImage, guided: bool) -> list[Sample]:
    """Samples that differ in all that may differ in one batch."""
    scales = [3.0, 1.5, 6.0, 2.0, 4.5] if guided else [1.0, 0.0, 0.5, 1.0, 1.0]
    settings = [
        {"steps": 3, "solver": "dpm"},
        {"steps": 5, "solver": "euler", "negative_prompt": "snow", "prompt": "two green foxes"},
        {"steps": 2, "solver": "dpm", "negative_prompt": "on a table", "prompt": ""},
        {"steps": 4, "solver": "dpm", "source": half_masked(pipe, 0.6)},
        {"steps": 4, "solver": "euler", "source": half_masked(pipe, 1.0), "prompt": "foxes in the snow"},
    ]
    return [
        begun(pipe, guidance=scale, seed=seed, **one)[0]
        for seed, (scale, one) in enumerate(zip(scales, settings, strict=True))
    ]


# Together and alone


@pytest.mark.parametrize("guided", [True, False])
def test_each_of_an_unlike_crowd_ends_where_it_ends_alone(pipe, guided) -> None:
    together = finish(pipe, crowd(pipe, guided))
    alone = [finish(pipe, [sample])[0] for sample in crowd(pipe, guided)]
    for ours, theirs in zip(together, alone, strict=True):
        assert apart(ours, theirs) < TOLERANCE
    assert min(apart(one, other) for one in alone for other in alone if one is not other) > 0.05


def test_who_joins_late_or_is_taken_away_changes_nobody(pipe) -> None:
    first, second, third = (begun(pipe, text, seed=7, steps=5)[0] for text in ("a fox", "snow", "an apple"))
    for others in ([], [third], [second, third], [second]):
        Batch(pipe.transformer, [*others, first]).step()
    assert [first.state.index, second.state.index, third.state.index] == [4, 2, 2]
    ended = finish(pipe, [second, first])
    for text, ours in (("a fox", ended[1]), ("snow", ended[0])):
        assert apart(ours, finish(pipe, begun(pipe, text, seed=7, steps=5))[0]) < TOLERANCE


def test_the_native_null_prompt_is_read_under_each_prompts_mask(pipe) -> None:
    """With L features, cross-attention weighs BOS by exp(s0) and padding by (L - 1) exp(s1)."""
    samples = begun(pipe, ["a fox", "two green foxes on a table", "a dog"], dialect="native", num_images=2)
    lengths = [sample.prompt.layers[0][0].key.shape[2] for sample in samples]  # pyright: ignore
    null = [sample.negative.layers[0][0] for sample in samples]  # pyright: ignore[reportOptionalMemberAccess]
    assert [one.key.shape[2] for one in null] == lengths  # pyright: ignore[reportOptionalMemberAccess]
    assert len(set(lengths)) > 1

    attention, x = pipe.transformer.blocks[0].cross_attn, torch.randn(1, 6, 64)
    wide = {name: parameter.detach().double() for name, parameter in attention.named_parameters()}
    bos, padding = pipe.text_encoder.encode_negative([""], dialect="native")[0][:2]
    key, value = (
        y.double().unflatten(-1, (4, 16))  # 2 h d
        for y in attention.kv_linear(pipe.transformer.caption(torch.stack([bos, padding]))).chunk(2, dim=-1)
    )
    query = (x[0].double() @ wide["q_linear.weight"].T + wide["q_linear.bias"]).unflatten(-1, (4, 16))
    scores = torch.einsum("nhd,lhd->lnh", query, key) / 4
    for length, prompt in zip(lengths, null, strict=True):
        first, others = scores[0].exp(), (length - 1) * scores[1].exp()
        share = (first / (first + others))[..., None]
        seen = (share * value[0] + (1 - share) * value[1]).flatten(1)
        expected = seen @ wide["proj.weight"].T + wide["proj.bias"]
        with torch.no_grad():
            attention.add_(out := x.clone(), [replace(prompt, count=1)])
        assert apart((out - x)[0].double(), expected) < TOLERANCE


def test_a_native_negative_prompt_is_cut_to_the_prompts_length(pipe) -> None:
    words = {"dialect": "native", "negative_prompt": "snow on a table with two green foxes"}
    for prompt in ("a fox", "two green foxes on a table in the snow, red apple"):
        (sample,) = begun(pipe, prompt, **words)
        (own,), (negative,) = sample.prompt.layers[0], sample.negative.layers[0]  # pyright: ignore
        assert own.key.shape == negative.key.shape


def test_dialects_take_their_steps_together(pipe) -> None:
    both = [begun(pipe, "Two Green FOXES", seed=3, dialect=name)[0] for name in ("diffusers", "native")]
    together = finish(pipe, both)
    alone = [begun(pipe, "Two Green FOXES", seed=3, dialect=name) for name in ("diffusers", "native")]
    for ours, one in zip(together, alone, strict=True):
        assert apart(ours, finish(pipe, one)[0]) < TOLERANCE
    assert apart(*together) > 100 * TOLERANCE


def test_pictures_of_one_call_share_their_prompts_and_keep_their_seeds(pipe) -> None:
    samples = begun(pipe, ["a fox", "snow"], num_images=2, seed=4)
    assert samples[0].prompt is samples[1].prompt
    assert samples[1].prompt is not samples[2].prompt
    assert len({id(sample.negative) for sample in samples}) == 1
    noise = seeded_noise([4, 5, 6, 7], (8, *GRID))
    assert torch.equal(Batch(pipe.transformer, samples).latents, noise)
    alone = begun(pipe, "snow", seed=6)[0]
    assert torch.equal(samples[2].state.sample, alone.state.sample)


def test_a_batch_tells_where_its_samples_stand_and_what_they_see(pipe) -> None:
    samples = begun(pipe, num_images=2, steps=4)
    batch = Batch(pipe.transformer, samples)
    batch.step()
    assert torch.equal(batch.latents, torch.cat([sample.state.sample for sample in samples]))
    assert torch.equal(batch.clean, torch.cat([sample.clean for sample in samples]))
    assert not torch.allclose(batch.clean, batch.latents, atol=0.1)
    for _ in range(3):
        batch.step()
    torch.testing.assert_close(batch.clean, batch.latents)  # at the end it is there


def test_samples_with_and_without_guidance_do_not_mix(pipe) -> None:
    samples = begun(pipe, guidance=1.0) + begun(pipe, guidance=2.0)
    with pytest.raises(ValueError, match="with and without guidance"):
        Batch(pipe.transformer, samples)


def test_every_block_is_told_of_when_it_has_run(pipe) -> None:
    seen = []
    Batch(pipe.transformer, begun(pipe)).step(seen.append)
    assert seen == list(pipe.transformer.blocks)


# Faults


def test_after_a_failed_step_all_stand_where_they_stood_and_can_go_on(pipe, monkeypatch) -> None:
    samples = crowd(pipe, guided=True)
    batch = Batch(pipe.transformer, samples)
    batch.step()
    stood = [(sample.state, sample.clean) for sample in samples]

    def broken(*_: object, **__: object) -> Tensor:
        raise RuntimeError("the model broke")

    with monkeypatch.context() as patch:
        patch.setattr(pipe.transformer, "velocity", broken)
        with pytest.raises(RuntimeError, match="the model broke"):
            batch.step()
    solver, samples[-1].solver = samples[-1].solver, None  # fails when all others have been moved
    with pytest.raises(AttributeError):
        batch.step()
    samples[-1].solver = solver
    for sample, (state, clean) in zip(samples, stood, strict=True):
        assert sample.state is state
        assert sample.clean is clean
    for ours, theirs in zip(finish(pipe, samples), finish(pipe, crowd(pipe, guided=True)), strict=True):
        assert apart(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("guided", [True, False])
def test_a_poisoned_sample_poisons_nobody_else(pipe, guided) -> None:
    samples = crowd(pipe, guided)
    poisoned = samples[2]
    poisoned.state = replace(poisoned.state, sample=torch.full_like(poisoned.state.sample, torch.nan))
    ended = finish(pipe, samples)
    assert ended[2].isnan().any()
    expected = finish(pipe, crowd(pipe, guided))
    for i in (0, 1, 3, 4):
        assert apart(ended[i], expected[i]) < TOLERANCE


def test_a_neighbour_of_the_same_prompt_is_not_poisoned_either(pipe) -> None:
    samples = begun(pipe, num_images=3)
    samples[1].state = replace(samples[1].state, sample=samples[1].state.sample / 0)
    ended = finish(pipe, samples)
    expected = finish(pipe, begun(pipe, num_images=3))
    assert apart(ended[0], expected[0]) < TOLERANCE
    assert apart(ended[2], expected[2]) < TOLERANCE


def test_memory_that_runs_out_is_a_memory_limit_error(pipe, monkeypatch) -> None:
    def full(*_: object, **__: object) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    batch = Batch(pipe.transformer, begun(pipe))
    monkeypatch.setattr(pipe.transformer, "velocity", full)
    with pytest.raises(MemoryLimitError, match="while denoising"):
        batch.step()


# Keeping a region


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("solver", ["dpm", "euler"])
def test_what_is_kept_ends_exactly_at_the_picture(pipe, solver, guidance, strength, steps) -> None:
    source = half_masked(pipe, strength)
    (sample,) = begun(pipe, solver=solver, guidance=guidance, steps=steps, source=source)
    known = encode_source(pipe.autoencoder, source.pixels, pipe.device)
    Batch(pipe.transformer, [sample]).step()
    assert (sample.clean - known)[..., 1:].abs().max() < KEPT * known.abs().max()  # in sight all the time
    (ended,) = finish(pipe, [sample])
    assert (ended - known)[..., 1:].abs().max() < KEPT * known.abs().max()
    assert (ended - known)[..., :1].abs().max() > 1e-3 * known.abs().max()


def test_what_is_kept_is_seen_by_what_is_drawn(pipe) -> None:
    ends = []
    for image in (picture(), Image.new("RGB", (96, 64), "navy")):
        mask = Image.new("L", (96, 64))
        mask.paste(255, (0, 0, 32, 64))
        source = make_source(pipe.spec, image, 1.0, mask=mask, **SIZE)
        ends.append(finish(pipe, begun(pipe, source=source))[0])
    assert apart(ends[0][..., :1], ends[1][..., :1]) > 0.01


def test_a_mask_of_everything_is_no_mask(pipe) -> None:
    mask = Image.new("L", (96, 64), 255)
    source = make_source(pipe.spec, picture(), 1.0, mask=mask, **SIZE)
    assert torch.equal(finish(pipe, begun(pipe, source=source))[0], finish(pipe, begun(pipe))[0])


# Where a sample starts


@pytest.mark.parametrize("solver", ["dpm", "euler"])
def test_a_strength_between_starts_at_the_noised_picture_of_the_first_time(pipe, solver) -> None:
    source = replace(half_masked(pipe, 0.5), mask=None)
    (sample,) = begun(pipe, solver=solver, steps=4, source=source)
    known = encode_source(pipe.autoencoder, source.pixels, pipe.device)
    time = sample.solver.times[0].item()
    assert sample.state.total == 2
    assert 0.5 < time < 0.9  # of 4 steps, shifted by 3
    expected = interpolate(known, seeded_noise([0], (8, *GRID)), time)
    torch.testing.assert_close(sample.state.sample, expected)
    assert sample.mask is None


def test_strength_0_means_the_picture_itself_and_nothing_to_do(pipe) -> None:
    source = half_masked(pipe, 0.0)
    known = encode_source(pipe.autoencoder, source.pixels, pipe.device)
    (sample,) = begun(pipe, source=source)
    assert sample.state.done
    assert torch.equal(sample.state.sample, known)
    assert torch.equal(sample.clean, known)


def test_latents_of_a_source_are_scaled_as_the_transformer_sees_them(pipe) -> None:
    source = half_masked(pipe, 0.5)
    known = encode_source(pipe.autoencoder, source.pixels, pipe.device)
    assert known.shape == (1, 8, *GRID)
    assert known.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(known, SCALING * pipe.autoencoder.encode(source.pixels))


def test_a_picture_whose_latents_are_not_finite_is_refused(pipe, monkeypatch) -> None:
    monkeypatch.setattr(type(pipe.autoencoder), "encode", lambda *_: torch.full((1, 8, *GRID), torch.inf))
    with pytest.raises(NumericsError, match="The encoded image"):
        begun(pipe, source=half_masked(pipe, 0.5))


def test_encoding_that_runs_out_of_memory_says_what_helps(pipe, monkeypatch) -> None:
    def full(*_: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(DCAE, "encode", full)
    with pytest.raises(MemoryLimitError, match="encoding the image: take a smaller size"):
        begun(pipe, source=half_masked(pipe, 0.5))
