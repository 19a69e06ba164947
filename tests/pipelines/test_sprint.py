"""SANA-Sprint models: SCM, few steps, guidance as an input; against diffusers' SanaSprintPipeline."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.comfy.stages import EncodeText, SampleLatents
from sanakit.errors import SettingsError
from sanakit.images.image import read_metadata, save
from sanakit.models.sana import Sana
from sanakit.pipelines.denoise import Batch, begin
from sanakit.pipelines.image_to_image import ImageToImage, chosen_strength
from sanakit.pipelines.inpaint import Inpaint
from sanakit.pipelines.request import check_request, make_sampler
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.ticket import Stepped
from tests.pipelines.noises import seeded_noise

TOLERANCE = 2  # of 255, in every pixel
LATENT_TOLERANCE = 2e-5  # relative; diffusers starts 3.7e-6 beyond pure noise
CONTRAST = 10  # of 255: an image flatter than this could agree by chance
SHAPE = (8, 2, 3)  # C h w of the model's default 96 x 64 px
PROMPT = "two green foxes on a table"
WAIT = 60  # seconds that nothing here should take


@pytest.fixture(scope="module")
def pipe(sprint_folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(sprint_folder, device="cpu", encoder=True)


@pytest.fixture(scope="module")
def oracle(sprint_folder: Path) -> diffusers.SanaSprintPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = diffusers.SanaSprintPipeline.from_pretrained(sprint_folder, local_files_only=True)
    oracle.set_progress_bar_config(disable=True)
    return oracle


def theirs(oracle, seed: int, steps: int, guidance: float = 4.5, **settings) -> Any:
    """What diffusers draws, one image: all its noise, first and fresh, from one generator."""
    return oracle(
        PROMPT,
        num_inference_steps=steps,
        intermediate_timesteps=1.3 if steps == 2 else None,
        guidance_scale=guidance,
        generator=torch.Generator("cpu").manual_seed(seed),
        max_sequence_length=20,
        complex_human_instruction=["Draw this: "],
        use_resolution_binning=False,
        **({"width": 96, "height": 64} | settings),
    ).images


def numbers(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def apart(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


# Parity


@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.5])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_the_same_seed_draws_diffusers_picture(pipe, oracle, steps, guidance) -> None:
    ours = pipe(PROMPT, steps=steps, guidance=guidance, seed=7).images[0]
    assert numbers(ours).std() > CONTRAST
    assert apart(ours, theirs(oracle, 7, steps, guidance)[0]) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_the_same_seed_ends_at_diffusers_latents(pipe, oracle, steps) -> None:
    """Finer than the images, whose random decoder drives most pixels to black or white."""
    ours = pipe(PROMPT, steps=steps, seed=7, output="latent").images
    expected = theirs(oracle, 7, steps, output_type="latent")
    assert (ours - expected).norm() < LATENT_TOLERANCE * expected.norm()


def test_other_sizes_draw_diffusers_picture(pipe, oracle) -> None:
    ours = pipe(PROMPT, width=64, height=160, seed=3).images[0]
    assert apart(ours, theirs(oracle, 3, 2, width=64, height=160)[0]) <= TOLERANCE


def test_each_picture_of_a_batch_is_diffusers_picture_of_its_seed(pipe, oracle) -> None:
    drawn = pipe(PROMPT, steps=3, num_images=3, seed=10).images
    for seed, picture in zip((10, 11, 12), drawn, strict=True):
        assert apart(picture, theirs(oracle, seed, 3)[0]) <= TOLERANCE


# Defaults and settings


def test_the_folder_tells_steps_solver_and_guidance(pipe, tmp_path) -> None:
    drawn = pipe(PROMPT, seed=0)
    own = {"steps": 2, "guidance": 4.5, "solver": "scm", "negative_prompt": "", "seed": 0}
    assert own.items() <= drawn.metadata[0].items()
    path = save(drawn.images[0], tmp_path / "one.png", drawn.metadata[0])
    told = read_metadata(path)
    again = pipe(told["prompt"], **{name: told[name] for name in ("steps", "guidance", "solver", "seed")})
    assert apart(again.images[0], drawn.images[0]) == 0


def test_guidance_and_steps_matter_and_one_pass_is_taken_a_step(pipe, monkeypatch) -> None:
    passes = []
    velocity = Sana.velocity

    def counted(self, latents, t, context, guidance=None, **options) -> torch.Tensor:
        passes.append(context.batch)
        return velocity(self, latents, t, context, guidance, **options)

    monkeypatch.setattr(Sana, "velocity", counted)
    first = pipe(PROMPT, guidance=4.5, seed=0).images[0]
    assert passes == [1, 1]
    assert apart(first, pipe(PROMPT, guidance=8.0, seed=0).images[0]) > TOLERANCE
    assert apart(first, pipe(PROMPT, steps=3, seed=0).images[0]) > CONTRAST


@pytest.mark.parametrize("solver", ["dpm", "euler", "ddim"])
def test_other_solvers_are_refused(pipe, solver) -> None:
    with pytest.raises(SettingsError, match='tiny-sprint supports only "scm", as all SANA'):
        pipe.stream(PROMPT, solver=solver)


def test_a_negative_prompt_is_refused(pipe) -> None:
    with pytest.raises(SettingsError, match="takes no negative prompt"):
        pipe.stream(PROMPT, negative_prompt="snow")


@pytest.mark.parametrize("steps", [0, 1001, 2.0])
def test_steps_out_of_range_are_refused(pipe, steps) -> None:
    with pytest.raises(SettingsError, match="whole number from 1 to 1000"):
        pipe.stream(PROMPT, steps=steps)


# Seeds


def test_a_picture_is_the_same_alone_in_a_batch_and_again(pipe) -> None:
    batch = pipe(["a red apple", PROMPT], num_images=2, steps=3, seed=5).images
    torch.manual_seed(1)  # somebody else's random numbers play no part
    alone = pipe(PROMPT, steps=3, seed=8).images[0]
    assert apart(batch[3], alone) <= 1
    assert apart(batch[2], alone) > CONTRAST
    assert apart(pipe(PROMPT, steps=3, seed=8).images[0], alone) == 0


def test_given_latents_replace_the_first_noise_alone(pipe) -> None:
    whole = pipe(PROMPT, steps=3, seed=6)
    same = pipe(PROMPT, steps=3, seed=6, latents=seeded_noise([6], SHAPE))
    assert apart(same.images[0], whole.images[0]) == 0
    assert same.seeds == [6]
    assert same.metadata == whole.metadata
    noise = seeded_noise([9], SHAPE)
    one, other = (pipe(PROMPT, steps=3, seed=seed, latents=noise).images[0] for seed in (6, 7))
    assert apart(one, other) > CONTRAST  # fresh noise is the seed's
    one, other = (pipe(PROMPT, steps=1, seed=seed, latents=noise).images[0] for seed in (6, 7))
    assert apart(one, other) == 0  # of which one step needs none


# Steps and crowds


@pytest.mark.parametrize("total", [1, 2, 4])
def test_stream_shows_the_clean_latents_and_ends_at_them(pipe, total) -> None:
    steps = list(pipe.stream(PROMPT, steps=total, seed=4))
    assert [(step.index, step.total) for step in steps] == [(i + 1, total) for i in range(total)]
    assert torch.equal(steps[-1].latents, steps[-1].clean)
    for step in steps:
        assert step.preview().size == (24, 16)  # 8 pixels a latent
    if total > 1:
        assert (steps[0].latents - steps[0].clean).abs().max() > 0.1  # noised again
    again = pipe(PROMPT, steps=total, seed=4).images[0]  # without previews
    assert apart(steps[-1].result.images[0], again) == 0


def test_samples_of_unlike_steps_guidance_and_place_go_as_they_go_alone(pipe) -> None:
    wishes = [
        {"prompt": "a red apple", "steps": 1, "guidance": 4.5, "seed": 1},
        {"prompt": PROMPT, "steps": 4, "guidance": 0.0, "seed": 2},
        {"prompt": "", "steps": 3, "guidance": 7.0, "seed": 3},
    ]
    samples = []
    for wish in wishes:
        request = check_request(pipe.spec, **wish)
        assert not request.guided
        features, _ = pipe.encode(request.prompts, [], pipe.plan(request))
        samples += begin(pipe.transformer, request, features, None)
    while waiting := [sample for sample in samples if not sample.state.done]:
        Batch(pipe.transformer, waiting).step()
    for wish, sample in zip(wishes, samples, strict=True):
        alone = pipe(**wish, output="latent").images
        assert (sample.state.sample - alone).abs().max() < 1e-5 * alone.abs().max()


def test_guidance_of_each_sample_is_the_sample_alone(pipe) -> None:
    request = check_request(pipe.spec, PROMPT, seed=0, num_images=3)
    features, _ = pipe.encode(request.prompts, [], pipe.plan(request))
    samples = begin(pipe.transformer, request, features, None)
    latents, context = Batch(pipe.transformer, samples).latents, samples[0].prompt
    scales = torch.tensor([0.0, 4.5, 9.0])
    context = type(context).join([context] * 3)
    together = pipe.transformer.velocity(latents, 0.5, context, scales)
    for i, scale in enumerate(scales.tolist()):
        alone = pipe.transformer.velocity(latents[i : i + 1], 0.5, samples[i].prompt, scale)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    twice = pipe.transformer.velocity(latents, 0.5, type(context).join([samples[0].prompt] * 6), scales)
    torch.testing.assert_close(twice, torch.cat([together, together]), rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingsError, match="3 latents came with 2 guidance scales"):
        pipe.transformer.velocity(latents, 0.5, context, scales[:2])


def test_an_engines_crowd_draws_what_each_draws_alone(pipe, sprint_folder, folder) -> None:
    wishes = [
        {"prompt": "a red apple", "seed": 1},
        {"prompt": PROMPT, "seed": 2, "steps": 4, "guidance": 7.0},
        {"prompt": "", "seed": 3, "steps": 1, "num_images": 2},
        {"prompt": PROMPT, "seed": 2, "steps": 4, "guidance": 2.0},
    ]
    told = []
    engine = Engine([str(sprint_folder), str(folder)], device="cpu")
    engine.start()
    try:
        tickets = [
            engine.submit(engine.check(None, **wish), on_event=told.append, previews=True) for wish in wishes
        ]
        other = engine.submit(engine.check("tiny", PROMPT, "snow", seed=1))
        drawn = [ticket.result(WAIT).images for ticket in tickets]
        assert len(other.result(WAIT).images) == 1
        with pytest.raises(SettingsError, match="negative prompt"):
            engine.check("tiny-sprint", PROMPT, "snow")
    finally:
        engine.close()
    for wish, images in zip(wishes, drawn, strict=True):
        for ours, alone in zip(images, pipe(**wish).images, strict=True):
            assert numbers(alone).std() > CONTRAST
            assert apart(ours, alone) <= TOLERANCE
    previews = [event.preview for event in told if isinstance(event, Stepped) and event.index < event.total]
    assert len(previews) == 1 + 3 + 3  # of each step but the last
    assert all(preview is not None for preview in previews)


def test_the_nodes_for_comfyui_draw_it_too(pipe) -> None:
    wish = {
        "seed": 3,
        "steps": 0,
        "guidance": -1.0,
        "solver": "auto",
        "width": 0,
        "height": 0,
        "strength": 1.0,
    }
    positive, negative = EncodeText().encode(pipe, PROMPT, "")
    (latent,) = SampleLatents().sample(pipe, positive, negative, **wish, batch_size=2)
    expected = pipe(PROMPT, seed=3, num_images=2, output="latent").images
    scaled = latent["samples"] * pipe.autoencoder.config.scaling_factor
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingsError, match="negative prompt"):
        EncodeText().encode(pipe, PROMPT, "snow")


# Starting from an image


def photograph() -> Image.Image:
    return Image.radial_gradient("L").convert("RGB").resize((96, 64))


@pytest.fixture(scope="module")
def editable(pipe) -> TextToImage:
    """With latents of about the size of the noise, as real ones are."""
    autoencoder = pipe.autoencoder
    config = autoencoder.config
    autoencoder.config = replace(config, scaling_factor=0.01)
    yield pipe
    autoencoder.config = config


def test_a_share_of_the_steps_starts_at_the_noised_picture(editable) -> None:
    solver = make_sampler("scm", 2, 3.0, 0.5)
    assert solver.times.tolist() == pytest.approx([math.sin(1.3) / (math.sin(1.3) + math.cos(1.3)), 0])
    task = ImageToImage(editable)
    steps = list(task.stream(photograph(), PROMPT, steps=4, strength=0.5, seed=0))
    assert len(steps) == 2
    same, other = (
        task(image, PROMPT, steps=4, strength=0.5, seed=0).images[0]
        for image in (photograph(), Image.new("RGB", (96, 64), "navy"))
    )
    assert apart(same, steps[-1].result.images[0]) == 0
    assert apart(same, other) > CONTRAST


def test_a_strength_that_takes_all_steps_would_forget_the_picture_and_is_refused(editable) -> None:
    with pytest.raises(SettingsError, match=r"strength 0\.6 of 2 steps covers all.*use 3 steps or more"):
        ImageToImage(editable)(photograph(), PROMPT, strength=0.6)
    assert make_sampler("scm", 3, 3.0, 0.6).times.shape == (3,)
    assert make_sampler("scm", 2, 3.0, 0.0) is None
    task = ImageToImage(editable)
    whole = task(photograph(), PROMPT, strength=1.0, seed=0, width=96, height=64).images[0]
    assert apart(whole, editable(PROMPT, seed=0).images[0]) == 0


def test_an_edit_with_all_defaults_keeps_something_of_its_picture(editable) -> None:
    task = ImageToImage(editable)
    own = task(photograph(), PROMPT, seed=0)
    assert own.metadata[0]["strength"] == 0.5
    assert apart(own.images[0], task(photograph(), PROMPT, strength=0.5, seed=0).images[0]) == 0
    assert apart(own.images[0], task(Image.new("RGB", (96, 64), "navy"), PROMPT, seed=0).images[0]) > CONTRAST
    assert task(photograph(), PROMPT, steps=3, seed=0).metadata[0]["strength"] == 0.6


@pytest.mark.parametrize(
    ("steps", "strength"),
    [(None, 0.5), (2, 0.5), (np.int64(2), 0.5), (3, 0.6), (4, 0.6), (1, 0.6), (20, 0.6)],
)
def test_the_strength_of_an_edit_leaves_a_step_out_of_two_or_more(pipe, steps, strength) -> None:
    assert chosen_strength(pipe.spec, steps=steps) == strength
    assert chosen_strength(pipe.spec, 0.9, steps) == 0.9


def test_a_server_edits_with_all_defaults(sprint_folder) -> None:
    engine = Engine([str(sprint_folder)], device="cpu")
    request = engine.check(None, PROMPT, image=photograph())
    assert request.metadata[0]["strength"] == 0.5
    mask = Image.new("L", (96, 64), 255)
    assert engine.check(None, PROMPT, image=photograph(), mask=mask).metadata[0]["strength"] == 1.0


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_what_a_mask_keeps_stays_as_it_is(editable, steps) -> None:
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 32, 64))
    drawn = Inpaint(editable)(photograph(), mask, PROMPT, steps=steps, feather=0, seed=0).images[0]
    assert apart(numbers(drawn)[:, 32:], numbers(photograph())[:, 32:]) == 0
    assert apart(numbers(drawn)[:, :32], numbers(photograph())[:, :32]) > CONTRAST
