"""Image to image against diffusers' parts put together by hand, and its own promises."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import MemoryLimitError, SettingsError, SizeError
from sanakit.eval.metrics.similarity import psnr
from sanakit.images.image import read_metadata, save
from sanakit.pipelines import text_to_image
from sanakit.pipelines.image_to_image import STRENGTH, ImageToImage
from sanakit.pipelines.request import check_request, make_sampler
from sanakit.pipelines.source import make_source
from sanakit.pipelines.text_to_image import TextToImage
from tests.pipelines.noises import seeded_noise

TOLERANCE = 2  # of 255, in every pixel
CONTRAST = 10  # of 255
SIZE = {"width": 96, "height": 64}
SHAPE = (8, 2, 3)
PROMPT = "two green foxes on a table"


@pytest.fixture(scope="module")
def draw(folder) -> ImageToImage:
    return ImageToImage.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def pocket() -> ImageToImage:
    return ImageToImage.from_pretrained("pocket")


@pytest.fixture(scope="module")
def oracle(folder: Path) -> diffusers.SanaPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return diffusers.SanaPipeline.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Smooth colours, 96 x 64: what is not exact in an autoencoder of random numbers stays small."""
    y, x = np.mgrid[:64, :96] / 96
    return Image.fromarray((255 * np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x)], -1)).astype(np.uint8))


@torch.no_grad()
def their_picture(
    oracle, image, strength: float, steps: int, solver: str, guidance: float, seed: int
) -> np.ndarray:
    """The image of diffusers' encoder, scheduler, transformer and decoder; H W 3 uint8."""
    scheduler = oracle.scheduler
    if solver == "euler":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    begin = int(steps - steps * strength)  # as diffusers' pipelines do
    scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin:]
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    scaling = oracle.vae.config.scaling_factor
    known = oracle.vae.encode(pixels).latent * scaling
    noise = seeded_noise([seed], SHAPE)
    add = scheduler.scale_noise if solver == "euler" else scheduler.add_noise
    latents = add(known, *((timesteps[:1], noise) if solver == "euler" else (noise, timesteps[:1])))
    text, mask, negative, negative_mask = oracle.encode_prompt(
        PROMPT, negative_prompt="snow", max_sequence_length=20, complex_human_instruction=["Draw this: "]
    )
    text, mask = torch.cat([negative, text]), torch.cat([negative_mask, mask])
    for timestep in timesteps:
        out = oracle.transformer(
            latents.repeat(2, 1, 1, 1),
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=timestep.expand(2),
        ).sample
        without, with_prompt = out.float().chunk(2)
        velocity = without + guidance * (with_prompt - without)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    drawn = oracle.vae.decode(latents / scaling).sample[0].clamp(-1, 1)
    return ((drawn + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def distance(one, other) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


# Parity


@pytest.mark.parametrize("solver", ["dpm", "euler"])
@pytest.mark.parametrize(("strength", "steps"), [(0.2, 5), (0.5, 6), (0.9, 10), (0.01, 4), (0.6, 17)])
def test_the_picture_is_that_of_diffusers_parts(draw, oracle, image, solver, strength, steps) -> None:
    settings = {"steps": steps, "guidance": 3.5, "solver": solver, "seed": 11}
    ours = draw(image, PROMPT, "snow", strength=strength, **SIZE, **settings).images[0]
    theirs = their_picture(oracle, image, strength, **settings)
    assert theirs.std() > CONTRAST
    assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("solver", ["dpm", "euler"])
def test_strength_1_is_text_to_image_of_the_same_noise(draw, image, solver) -> None:
    settings = {"steps": 3, "solver": solver, "seed": 5}
    ours = draw(image, PROMPT, strength=1.0, **SIZE, **settings)
    plain = draw.pipe(PROMPT, **SIZE, **settings)
    assert distance(ours.images[0], plain.images[0]) == 0
    noise = torch.randn(1, *SHAPE)
    given = draw(image, PROMPT, strength=1.0, **SIZE, latents=noise, output="latent").images
    assert torch.equal(given, draw.pipe(PROMPT, **SIZE, latents=noise, output="latent").images)


@torch.no_grad()
def test_strength_0_is_the_autoencoders_reconstruction(draw, oracle, image) -> None:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    theirs = oracle.vae.decode(oracle.vae.encode(pixels).latent).sample[0].clamp(-1, 1)
    expected = ((theirs + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    results = [draw(image, text, strength=0, **SIZE, seed=seed) for text, seed in ((PROMPT, 1), ("", 2))]
    assert expected.float().std() > CONTRAST
    for result in results:
        assert distance(result.images[0], expected) <= 1
        assert result.metadata[0]["strength"] == 0


def test_strength_0_has_one_step_that_does_nothing(draw, image, monkeypatch) -> None:
    monkeypatch.setattr(type(draw.pipe.transformer), "velocity", lambda *_, **__: pytest.fail("drawn"))
    (step,) = draw.stream(image, PROMPT, strength=0.0, **SIZE)
    assert (step.index, step.total) == (0, 0)
    assert torch.equal(step.latents, step.clean)


# Settings


@pytest.mark.parametrize(
    ("strength", "steps", "done"),
    [
        (1.0, 7, 7),
        (0.5, 8, 4),
        (0.29, 10, 3),
        (0.31, 10, 4),
        (0.5, 5, 3),
        (0.001, 20, 1),
        (1e-6, 1, 1),
        (0.99, 20, 20),
    ],
)
def test_strength_is_the_part_of_the_steps_that_are_done(draw, image, strength, steps, done) -> None:
    for solver in ("dpm", "euler"):
        sampler = make_sampler(solver, steps, 3.0, strength)
        assert sampler is not None
        assert torch.equal(sampler.times, make_sampler(solver, steps, 3.0).times[-done - 1 :])  # pyright: ignore[reportOptionalMemberAccess]
    seen = list(draw.stream(image, PROMPT, strength=strength, **SIZE, steps=steps, guidance=1.0))
    assert [(step.index, step.total) for step in seen] == [(i, done) for i in range(1, done + 1)]


def test_no_strength_at_all_needs_no_solver_but_a_right_one() -> None:
    assert make_sampler("dpm", 4, 3.0, 0.0) is None
    for wrong in ({"solver": "ddim", "steps": 4}, {"solver": "dpm", "steps": 0}):
        with pytest.raises(SettingsError):
            make_sampler(**wrong, shift=3.0, strength=0.0)


def test_the_same_call_draws_the_same_picture_and_another_seed_another(draw, image) -> None:
    first, again, other = (draw(image, PROMPT, **SIZE, seed=seed).images[0] for seed in (1, 1, 2))
    assert distance(first, again) == 0
    assert distance(first, other) > CONTRAST


def test_pictures_of_one_source_are_what_their_seeds_draw_alone(draw, image) -> None:
    batch = draw(image, ["a red apple", PROMPT], strength=0.7, num_images=2, seed=5)
    assert batch.seeds == [5, 6, 7, 8]
    for i, prompt in enumerate(["a red apple"] * 2 + [PROMPT] * 2):
        alone = draw(image, prompt, strength=0.7, seed=5 + i)
        assert distance(batch.images[i], alone.images[0]) <= 1
        assert (batch.metadata[i]["prompt"], batch.metadata[i]["seed"]) == (prompt, 5 + i)
    assert distance(batch.images[0], batch.images[1]) > CONTRAST
    assert distance(batch.images[1], batch.images[2]) > CONTRAST


def test_outputs_are_the_stages_of_one_picture(draw, image) -> None:
    odd = image.resize((101, 67))
    latent, tensor, picture = (
        draw(odd, PROMPT, seed=0, output=kind).images for kind in ("latent", "pt", "pil")
    )
    assert latent.shape == (1, 8, 3, 5)  # 160 x 96 px: near the model's own 128 x 128
    assert tensor.shape == (1, 3, 96, 160)
    assert torch.equal(draw.pipe.decode(latent).clamp(-1, 1), tensor)
    assert picture[0].size == (101, 67)
    whole = Image.fromarray(((tensor[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy())
    assert distance(picture[0], whole.resize((101, 67), Image.Resampling.LANCZOS)) <= 1


def test_the_metadata_tell_strength_and_size_and_survive_a_png(draw, image, tmp_path) -> None:
    result = draw(image.resize((101, 67)), PROMPT, seed=3)
    (settings,) = result.metadata
    assert settings["strength"] == STRENGTH
    assert (settings["width"], settings["height"]) == (101, 67)
    path = save(result.images[0], tmp_path / "a.png", settings)
    assert read_metadata(path) == settings
    assert "strength" not in draw.pipe(PROMPT, steps=1).metadata[0]


def test_a_source_of_any_mode_and_orientation_is_taken(draw, image) -> None:
    lying = image.convert("RGBA").transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[274] = 6
    ours, plain = (draw(one, PROMPT, seed=0).images[0] for one in (lying, image))
    assert distance(ours, plain) <= 1


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (333, 64)])
def test_odd_sizes_come_back_as_they_went_in(draw, size) -> None:
    assert draw(Image.new("RGB", size, "navy"), PROMPT, steps=1).images[0].size == size


def test_bins_are_drawn_in_and_left_again(binned_folder) -> None:
    draw = ImageToImage.from_pretrained(binned_folder, device="cpu")
    image = Image.linear_gradient("L").resize((301, 235)).convert("RGB")
    settings = {"steps": 1, "guidance": 1.0}
    own = draw(image, PROMPT, **settings)
    assert own.images[0].size == (301, 235)
    assert draw(image, PROMPT, **settings, output="latent").images.shape == (1, 8, 14, 18)
    given = draw(image, PROMPT, width=299, height=237, **settings)
    assert given.images[0].size == (299, 237)
    free = draw(image, PROMPT, width=288, height=256, binned=False, output="latent", **settings)
    assert free.images.shape == (1, 8, 8, 9)


def test_nonsense_is_refused_before_any_work(draw, image, monkeypatch) -> None:
    monkeypatch.setattr(type(draw.pipe.text_encoder), "encode", lambda *_: pytest.fail("worked"))
    for wrong in (
        {"strength": 1.5},
        {"strength": None},
        {"steps": 0},
        {"guidance": -1},
        {"num_images": 0},
        {"solver": "ddim"},
        {"output": "png"},
        {"seed": -1},
        {"latents": torch.randn(1, 8, 2, 2)},
    ):
        with pytest.raises(SettingsError):
            draw.stream(image, PROMPT, **wrong)
    with pytest.raises(SizeError):
        draw.stream(image, PROMPT, width=100)
    with pytest.raises(SettingsError, match=r"PIL\.Image\.open"):
        draw.stream("image.png", PROMPT)
    with pytest.raises(TypeError):
        draw.stream(image, PROMPT, strenght=0.5)


def test_a_pipeline_that_has_no_encoder_is_refused_with_a_remedy(pipe, image) -> None:
    with pytest.raises(SettingsError, match="encoder=True"):
        ImageToImage(pipe).stream(image, PROMPT)  # at once, before the first step is asked for


def test_a_cut_prompt_warns_once_at_the_callers_line(draw, image) -> None:
    with pytest.warns(UserWarning, match="too long") as caught:
        result = draw(image, "a red apple " * 200, strength=0.1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert len(result.warnings) == 1


# Memory


def test_the_autoencoder_is_there_when_it_encodes_and_gone_when_the_transformer_works(
    draw, image, monkeypatch
) -> None:
    """On a device that does not hold all parts at once, each is brought for its stage."""
    here = []

    @contextmanager
    def stage(part, *_: object):
        here.append(part)
        yield
        here.pop()

    pipe = draw.pipe
    present = []
    for part, name in ((pipe.autoencoder, "encode"), (pipe.transformer, "velocity")):
        work = getattr(part, name)

        def watched(*given, part=part, work=work, **options):
            present.append((part, list(here)))
            return work(*given, **options)

        monkeypatch.setattr(part, name, watched)
    monkeypatch.setattr(text_to_image, "stage", stage)
    draw(image, PROMPT, steps=2, strength=0.5)
    assert len(present) == 2
    assert all(parts == [part] for part, parts in present)


def test_a_budget_too_small_is_refused_at_once(folder, image) -> None:
    small = ImageToImage.from_pretrained(folder, device="cpu", memory="1MB")
    with pytest.raises(MemoryLimitError, match="do not fit in 1 MB"):
        small.stream(image, PROMPT)


# The embedded model


def test_pocket_keeps_more_of_a_picture_the_lower_the_strength(pocket) -> None:
    start = pocket.pipe("a red apple", steps=8, seed=0, output="pt").images
    image = Image.fromarray(((start[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy())
    near = [
        psnr(pocket(image, "a red apple", strength=s, steps=8, seed=1, output="pt").images, start).item()
        for s in (0.0, 0.4, 1.0)
    ]
    assert near[0] > 25
    assert near[0] > near[1] + 1 > near[2] + 2


def test_pocket_draws_the_prompt_where_the_strength_lets_it(pocket) -> None:
    image = Image.new("RGB", (200, 200), "white")
    image.paste("red", (60, 60, 140, 140))
    changed = pocket(image, "a blue heart", strength=0.9, seed=0).images[0]
    pixels = np.asarray(changed, dtype=float).reshape(-1, 3)
    coloured = pixels[pixels.min(1) < 200]
    assert coloured.mean(0).argmax() == 2
    assert changed.size == (200, 200)


def test_a_checked_request_can_be_drawn_later(draw, image) -> None:
    spec = draw.pipe.spec
    request = check_request(spec, PROMPT, seed=3, source=make_source(spec, image, STRENGTH))
    *_, last = draw.pipe.draw(request)
    assert distance(last.result.images[0], draw(image, PROMPT, seed=3).images[0]) == 0
    assert (request.from_noise, request.guided, request.model, request.num_images) == (False, True, "tiny", 1)
    assert isinstance(draw.pipe, TextToImage)
