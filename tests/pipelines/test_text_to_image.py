"""The pipeline against diffusers' SanaPipeline on the same folder and noise, and its own promises."""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.flow.euler import euler_times
from sanakit.images.image import read_metadata, save, to_pil
from sanakit.models.dc_ae import DCAE
from sanakit.pipelines.denoise import Batch, begin
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.request import check_request
from sanakit.pipelines.result import Result
from sanakit.pipelines.text_to_image import TextToImage
from tests.pipelines.noises import seeded_noise

TOLERANCE = 2  # of 255, in every pixel
CONTRAST = 10  # of 255: an image flatter than this could agree by chance
INSTRUCTION = "Draw this: "  # as in conftest
SHAPE = (8, 2, 3)  # C h w of the model's default 96 x 64 px
PROMPT = "two green foxes on a table"
LONG = "a red apple on a table, " * 20
PROMPTS = {
    "empty": "",
    "spaces": " \n ",
    "multilingual": "一只猫 и рыжая кошка नमस्ते 🐱",
    "capitals": "  An ÉLÉPHANT ",
    "long": LONG,
}


def open_oracle(folder: Path) -> diffusers.SanaPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = diffusers.SanaPipeline.from_pretrained(folder, local_files_only=True)
    oracle.set_progress_bar_config(disable=True)
    return oracle


@pytest.fixture(scope="module")
def oracle(folder: Path) -> diffusers.SanaPipeline:
    return open_oracle(folder)


def their_picture(oracle, prompt: str, noise: torch.Tensor, solver: str = "dpm", **settings) -> np.ndarray:
    """One image as diffusers draws it, H W 3 uint8."""
    scheduler = oracle.scheduler
    if solver == "euler":
        oracle.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    settings = {"width": 96, "height": 64, "use_resolution_binning": False} | settings
    try:
        drawn = oracle(
            prompt,
            latents=noise.clone(),
            max_sequence_length=20,
            complex_human_instruction=[INSTRUCTION],
            **settings,
        )
    finally:
        oracle.scheduler = scheduler
    return np.asarray(drawn.images[0])


def assert_same_picture(ours: Image.Image, theirs: np.ndarray) -> None:
    mine = np.asarray(ours)
    assert mine.shape == theirs.shape
    assert theirs.std() > CONTRAST
    assert np.abs(mine.astype(int) - theirs.astype(int)).max() <= TOLERANCE


def pictures(result: Result) -> list[Image.Image]:
    assert isinstance(result.images, list)
    return result.images


def distance(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


# Parity


@pytest.mark.parametrize("solver", ["dpm", "euler"])
@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 4.5])
def test_both_solvers_with_and_without_guidance_draw_diffusers_picture(
    pipe, oracle, solver, guidance
) -> None:
    noise = seeded_noise([7], SHAPE)
    ours = pipe(PROMPT, steps=6, guidance=guidance, solver=solver, seed=7)
    theirs = their_picture(oracle, PROMPT, noise, solver, num_inference_steps=6, guidance_scale=guidance)
    assert_same_picture(pictures(ours)[0], theirs)


@pytest.mark.filterwarnings("ignore:The prompt is too long")
@pytest.mark.parametrize("name", PROMPTS)
def test_unusual_prompts_draw_diffusers_picture(pipe, oracle, name) -> None:
    ours = pipe(PROMPTS[name], negative_prompt="a red apple", steps=3, guidance=3.0, seed=1)
    noise = seeded_noise([1], SHAPE)
    settings = {"negative_prompt": "a red apple", "num_inference_steps": 3, "guidance_scale": 3.0}
    assert_same_picture(pictures(ours)[0], their_picture(oracle, PROMPTS[name], noise, **settings))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (64, 160), (224, 64)])
def test_sizes_draw_diffusers_picture(pipe, oracle, width, height) -> None:
    ours = pipe(PROMPT, steps=2, width=width, height=height, seed=3)
    assert pictures(ours)[0].size == (width, height)
    noise = seeded_noise([3], (8, height // 32, width // 32))
    settings = {"width": width, "height": height, "num_inference_steps": 2, "guidance_scale": 3.0}
    assert_same_picture(pictures(ours)[0], their_picture(oracle, PROMPT, noise, **settings))


def test_numbers_of_numpy_are_numbers(pipe) -> None:
    numbers = {"width": np.int64(96), "height": np.uint16(64), "steps": np.int32(2), "seed": np.int64(5)}
    ours = pipe(PROMPT, **numbers, guidance=np.float32(2), num_images=np.int8(2))
    plain = pipe(PROMPT, width=96, height=64, steps=2, seed=5, guidance=2.0, num_images=2)
    assert ours.metadata == plain.metadata
    assert json.dumps(ours.metadata) == json.dumps(plain.metadata)
    assert distance(pictures(ours)[1], pictures(plain)[1]) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_host_programs_default_dtype_changes_no_pixel(folder, sprint_folder, dtype) -> None:
    """Neither where the model is loaded under it nor where it draws; images at one time or at several."""

    def draw() -> list[Image.Image]:
        drawn = []
        for model, settings in ((folder, {"plan": None}), (folder, {"plan": "nf4"}), (sprint_folder, {})):
            pipe = TextToImage.from_pretrained(model, device="cpu", encoder=True, **settings)
            steps = list(pipe.stream(PROMPT, steps=2, guidance=4.3, seed=3, num_images=2))
            drawn += [*pictures(steps[-1].result), steps[0].preview()]
            drawn += pictures(ImageToImage(pipe)(drawn[-2], PROMPT, strength=0.5, steps=2, seed=3))
        requests = [check_request(pipe.spec, PROMPT, seed=1, steps=steps) for steps in (2, 3)]
        features, _ = pipe.encode([PROMPT], [], pipe.plan(requests[0]))
        samples = [one for request in requests for one in begin(pipe.transformer, request, features, None)]
        batch = Batch(pipe.transformer, samples)
        for _ in range(2):  # the second step begins at a time of its own for each
            batch.step()
        tensors = pipe.decode(batch.latents)
        assert tensors.dtype == torch.float32
        return [*drawn, *to_pil(tensors)]

    before, usual = draw(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        after = draw()
    finally:
        torch.set_default_dtype(usual)
    assert [distance(one, other) for one, other in zip(before, after, strict=True)] == [0] * len(before)


def test_bins_draw_diffusers_picture(binned_folder) -> None:
    pipe = TextToImage.from_pretrained(binned_folder, device="cpu")
    noise = seeded_noise([3], (8, 14, 18))  # 448 x 576 px is the bin of 300 x 236
    ours = pipe(PROMPT, steps=1, width=300, height=236, seed=3)
    settings = {"num_inference_steps": 1, "guidance_scale": 3.0, "use_resolution_binning": True}
    theirs = their_picture(open_oracle(binned_folder), PROMPT, noise, width=300, height=236, **settings)
    assert_same_picture(pictures(ours)[0], theirs)
    unbinned = pipe(PROMPT, steps=1, width=288, height=256, seed=3, binned=False, output="latent")
    assert unbinned.images.shape == (1, 8, 8, 9)


def test_given_latents_draw_diffusers_picture(pipe, oracle) -> None:
    noise = torch.randn(1, *SHAPE)
    ours = pipe(PROMPT, latents=noise)
    theirs = their_picture(oracle, PROMPT, noise, num_inference_steps=3, guidance_scale=3.0)
    assert_same_picture(pictures(ours)[0], theirs)
    assert ours.seeds == []
    assert "seed" not in ours.metadata[0]


def test_each_picture_of_a_mixed_batch_is_diffusers_picture_of_its_prompt_and_seed(pipe, oracle) -> None:
    """One by one: diffusers itself pairs masks and prompts wrongly in such a batch."""
    prompts = ["a red apple", "", "two green foxes in the snow, a table and an apple"]
    ours = pipe(prompts, negative_prompt="snow", steps=3, num_images=2, seed=10)
    assert ours.seeds == [10, 11, 12, 13, 14, 15]
    for i, (prompt, picture) in enumerate(zip(np.repeat(prompts, 2), pictures(ours), strict=True)):
        assert (ours.metadata[i]["prompt"], ours.metadata[i]["seed"]) == (prompt, 10 + i)
        settings = {"negative_prompt": "snow", "num_inference_steps": 3, "guidance_scale": 3.0}
        theirs = their_picture(oracle, str(prompt), seeded_noise([10 + i], SHAPE), **settings)
        assert_same_picture(picture, theirs)


# Seeds, defaults, outputs


def test_a_picture_is_the_same_alone_and_in_a_batch(pipe) -> None:
    batch = pipe(["a red apple", PROMPT], num_images=2, seed=5)
    alone = pipe(PROMPT, seed=8)
    assert distance(pictures(batch)[3], pictures(alone)[0]) <= 1
    assert distance(pictures(batch)[2], pictures(alone)[0]) > CONTRAST


def test_seeded_noise_a_seed_does_not_depend_on_its_neighbours_or_the_global_generator() -> None:
    alone = seeded_noise([2**63 + 3], SHAPE)
    torch.manual_seed(9)
    torch.set_default_dtype(torch.float64)
    try:
        together = seeded_noise([1, 2**63 + 3], SHAPE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(together[1:], alone)
    assert alone.dtype == torch.float32


def test_without_a_seed_each_call_draws_another_picture_and_tells_its_seed(pipe) -> None:
    first, second = pipe(PROMPT), pipe(PROMPT)
    assert first.seeds != second.seeds
    assert distance(pictures(pipe(PROMPT, seed=first.seeds[0]))[0], pictures(first)[0]) == 0


def test_the_folders_defaults_hold_and_the_callers_words_win(pipe) -> None:
    own = pipe(PROMPT, seed=0).metadata[0]
    assert own == {
        "prompt": PROMPT,
        "negative_prompt": "",
        "width": 96,
        "height": 64,
        "steps": 3,
        "guidance": 3.0,
        "solver": "dpm",
        "model": "tiny",
        "fingerprint": pipe.fingerprint,
        "version": own["version"],
        "seed": 0,
    }
    said = {"width": 64, "height": 96, "steps": 2, "guidance": 0.0, "solver": "euler"}
    result = pipe(PROMPT, **said)
    assert said.items() <= result.metadata[0].items()
    assert pictures(result)[0].size == (64, 96)


def test_the_negative_prompt_matters_only_with_guidance(pipe) -> None:
    def both(guidance: float) -> int:
        one, other = (pipe(PROMPT, negative_prompt=text, guidance=guidance, seed=0) for text in ("", "snow"))
        return distance(pictures(one)[0], pictures(other)[0])

    assert both(1.0) == 0
    assert both(4.0) > TOLERANCE
    told = [pipe(PROMPT, negative_prompt="snow", guidance=scale, steps=1).warnings for scale in (1.0, 4.0)]
    assert told == [["The negative prompt changes nothing at guidance 1: it needs more than 1."], []]


def test_outputs_are_the_stages_of_one_picture(pipe) -> None:
    latent, tensor, picture = (pipe(PROMPT, seed=0, output=kind).images for kind in ("latent", "pt", "pil"))
    assert latent.shape == (1, *SHAPE)
    assert tensor.shape == (1, 3, 64, 96)
    assert tensor.dtype == latent.dtype == torch.float32
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert torch.equal(pipe.decode(latent).clamp(-1, 1), tensor)
    levels = np.asarray(picture[0]).transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(levels - tensor[0].numpy()).max() <= 0.5 / 127.5 + 1e-6


def test_timings_are_of_the_three_stages(pipe) -> None:
    timings = pipe(PROMPT).timings
    assert set(timings) == {"text", "denoise", "decode"}
    assert all(0 < seconds < 60 for seconds in timings.values())


def test_a_cut_prompt_warns_and_is_told_in_the_result(pipe) -> None:
    with pytest.warns(UserWarning, match="too long"):
        result = pipe(LONG * 200, steps=1)  # some hundred thousand characters
    assert len(result.warnings) == 1
    assert "too long" in result.warnings[0]
    assert pipe(PROMPT, steps=1).warnings == []


# Steps


@pytest.mark.parametrize("total", [1, 2, 5])
def test_stream_gives_exactly_the_asked_steps_and_the_last_has_the_result(pipe, total) -> None:
    steps = list(pipe.stream(PROMPT, steps=total, seed=4))
    assert [step.index for step in steps] == list(range(1, total + 1))
    assert {step.total for step in steps} == {total}
    assert [step.result is None for step in steps] == [True] * (total - 1) + [False]
    assert distance(pictures(steps[-1].result)[0], pictures(pipe(PROMPT, steps=total, seed=4))[0]) == 0
    assert torch.equal(steps[-1].latents, pipe(PROMPT, steps=total, seed=4, output="latent").images)


def test_each_step_tells_the_clean_latents_in_sight(pipe) -> None:
    """Euler goes straight towards them: what is left of the way shrinks as the time does."""
    noise = torch.randn(1, *SHAPE)
    steps = list(pipe.stream(PROMPT, steps=4, solver="euler", latents=noise))
    times = euler_times(4, 3.0).tolist()
    here = noise
    for step, time, following in zip(steps, times[:-1], times[1:], strict=True):
        expected = step.clean + following / time * (here - step.clean)
        torch.testing.assert_close(step.latents, expected, atol=1e-4, rtol=1e-4)
        here = step.latents
    assert not torch.allclose(steps[0].clean, steps[-1].clean, atol=0.1)


def test_a_cancelled_stream_computes_no_further_step_and_no_picture(pipe, monkeypatch) -> None:
    calls = []
    velocity = type(pipe.transformer).velocity
    counted = lambda *given, **options: calls.append(1) or velocity(*given, **options)  # noqa: E731
    monkeypatch.setattr(type(pipe.transformer), "velocity", counted)
    monkeypatch.setattr(DCAE, "decode_rows", lambda *_: pytest.fail("decoded"))
    stream = pipe.stream(PROMPT, steps=9)
    assert calls == []  # nothing before the first step is asked for
    assert [step.index for step in itertools.islice(stream, 2)] == [1, 2]
    stream.close()
    assert len(calls) == 2


def test_previews_show_the_picture_in_sight(pipe, monkeypatch) -> None:
    """With a linear decoder a preview is exact: the last one is the image, scaled down."""
    weights = torch.randn(9, 3 * 8 * 8) * 0.05

    def decode_rows(_: object, latents: torch.Tensor, band: int) -> Iterator[torch.Tensor]:
        patches = torch.einsum(
            "bchw,cd->bdhw", torch.cat([latents, torch.ones_like(latents[:, :1])], 1), weights
        )
        yield torch.nn.functional.interpolate(torch.pixel_shuffle(patches, 8), scale_factor=4)

    monkeypatch.setattr(DCAE, "decode_rows", decode_rows)
    fresh = TextToImage(pipe.transformer, pipe.autoencoder, pipe.text_encoder, pipe.settings)
    steps = list(fresh.stream([PROMPT, "snow"], steps=6, seed=1))
    for number, picture in enumerate(pictures(steps[-1].result)):
        final = picture.resize((24, 16), Image.Resampling.NEAREST)  # 8 pixels a latent
        assert distance(steps[-1].preview(number), final) <= 4
        assert distance(steps[0].preview(number), final) > 20
        assert np.asarray(final).std() > CONTRAST


def test_previews_change_nothing(pipe) -> None:
    plain = pipe(PROMPT, seed=0)
    for step in pipe.stream(PROMPT, seed=0):
        step.preview()
    assert distance(pictures(step.result)[0], pictures(plain)[0]) == 0


def test_a_folders_dialect_is_drawn_in_unless_a_call_says_another(pipe, folder, tmp_path) -> None:
    copy = shutil.copytree(folder, tmp_path / "native")
    ours = json.loads((copy / "sanakit.json").read_text())
    ours["defaults"]["dialect"] = "native"
    (copy / "sanakit.json").write_text(json.dumps(ours))
    native = TextToImage.from_pretrained(copy, device="cpu")
    words = {"prompt": "Two Green FOXES", "seed": 3, "output": "pt"}
    usual, other = pipe(**words).images, pipe(**words, dialect="native").images
    assert torch.equal(native(**words).images, other)
    assert torch.equal(native(**words, dialect="diffusers").images, usual)
    assert not torch.equal(usual, other)


def test_the_default_dialect_reads_letters_as_diffusers_does(pipe) -> None:
    words = {"seed": 3, "output": "pt"}
    assert torch.equal(pipe("Two FOXES", **words).images, pipe(" two foxes ", **words).images)
    both = [pipe(text, **words, dialect="native").images for text in ("Two FOXES", "two foxes")]
    assert not torch.equal(*both)


@pytest.mark.parametrize("dialect", [None, "native"])
def test_what_read_metadata_gives_draws_the_same_picture_again(pipe, tmp_path, dialect) -> None:
    words = {"steps": 2, "guidance": 2.5, "solver": "euler", "num_images": 2, "dialect": dialect}
    first = pipe("A red Apple", negative_prompt="snow", **words)
    path = save(first.images[1], tmp_path / "apple.png", first.metadata[1])
    settings = read_metadata(path)
    assert settings.pop("model") == "tiny"
    del settings["version"]
    assert settings["fingerprint"] == pipe.fingerprint
    again = pipe(**settings)
    assert again.warnings == []
    assert "other weights" in pipe(**settings | {"fingerprint": "0" * 12}).warnings[0]
    difference = np.asarray(again.images[0]).astype(int) - np.asarray(first.images[1]).astype(int)
    assert np.abs(difference).max() <= 1
