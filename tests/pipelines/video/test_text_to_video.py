"""Clips against diffusers' SanaVideoPipeline on the same folder and noise, and the pipeline's promises."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.clips.reading import open_clip
from sanakit.errors import ArgumentError, MemoryLimitError, NumericsError, WeightsError
from sanakit.pipelines.control import step_times
from sanakit.pipelines.request import make_sampler
from sanakit.pipelines.video.result import ClipResult
from sanakit.pipelines.video.text_to_video import TextToVideo
from tests.pipelines.conftest import INSTRUCTION, MAX_TOKENS
from tests.pipelines.video.tiny import GRID, apart, noise

LATENTS = 1e-4  # largest difference over largest value; seen: 3e-6
FRAMES = 2  # of 255, in every value of every pixel
CONTRAST = 10  # of 255: a clip flatter than this could agree by chance
PROMPT = "two green foxes on a table"


@pytest.fixture(scope="module")
def oracle(video_folder: Path) -> diffusers.SanaVideoPipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = diffusers.SanaVideoPipeline.from_pretrained(video_folder, local_files_only=True)
    oracle.set_progress_bar_config(disable=True)
    return oracle


def theirs(oracle, prompt, latents: torch.Tensor, kind: str = "latent", **settings):
    settings = {"width": 96, "height": 64, "frames": 9, "use_resolution_binning": False} | settings
    return oracle(
        prompt,
        latents=latents.clone(),
        output_type=kind,
        max_sequence_length=MAX_TOKENS,
        complex_human_instruction=[INSTRUCTION],
        **settings,
    ).frames


def latents_of(result: ClipResult) -> torch.Tensor:
    assert isinstance(result.clips, torch.Tensor)
    return result.clips


# Parity


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_latents_are_those_of_diffusers(video_pipe, oracle, guidance) -> None:
    words = {"negative_prompt": "a red apple"}
    ours = video_pipe(PROMPT, **words, steps=6, guidance=guidance, seed=7, output="latent")
    wanted = theirs(oracle, PROMPT, noise(7), num_inference_steps=6, guidance_scale=guidance, **words)
    assert apart(latents_of(ours), wanted) < LATENTS


def test_frames_are_those_of_diffusers(video_pipe, oracle) -> None:
    ours = video_pipe(PROMPT, steps=4, guidance=4.0, seed=3)
    called = {"num_inference_steps": 4, "guidance_scale": 4.0}
    wanted = 255 * np.asarray(theirs(oracle, PROMPT, noise(3), "np", **called))[0]
    assert wanted.std() > CONTRAST
    assert np.abs(np.diff(wanted, axis=0)).max() > CONTRAST, "it moves"
    assert np.abs(ours.frames - wanted).max() <= FRAMES


def test_a_batch_of_prompts_is_that_of_diffusers(video_pipe, oracle) -> None:
    prompts = [PROMPT, "a red apple"]
    ours = video_pipe(prompts, steps=3, guidance=4.0, seed=1, output="latent")
    called = {"num_inference_steps": 3, "guidance_scale": 4.0}
    assert apart(latents_of(ours), theirs(oracle, prompts, noise(1, 2), **called)) < LATENTS


def test_a_folder_with_the_euler_scheduler_draws_as_diffusers_does(video_folder, video_pipe, oracle) -> None:
    ours = video_pipe(PROMPT, steps=4, guidance=4.0, seed=3, solver="euler", output="latent")
    scheduler = oracle.scheduler
    oracle.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=8.0)
    try:
        wanted = theirs(oracle, PROMPT, noise(3), num_inference_steps=4, guidance_scale=4.0)
    finally:
        oracle.scheduler = scheduler
    assert apart(latents_of(ours), wanted) < LATENTS


def test_model_times_of_50_steps_at_shift_8_are_the_published_ones(oracle) -> None:
    ours = [round(1000 * t, 6) for t in step_times(make_sampler("dpm", 50, 8.0))]
    assert ours[:6] == [999, 997, 994, 991, 989, 986]
    assert ours[-4:] == [409, 337, 249, 140]
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(oracle.scheduler.config)
    scheduler.set_timesteps(50)
    assert ours == scheduler.timesteps.tolist()
    assert make_sampler("dpm", 50, 8.0).times[0].item() == pytest.approx(0.99987, abs=1e-5)  # pyright: ignore


# The seed's promise, sizes and files


def test_a_clip_is_the_same_alone_and_in_a_batch(video_pipe) -> None:
    called = {"steps": 2, "guidance": 4.0, "output": "latent"}
    both = video_pipe([PROMPT, "a red apple"], seed=5, num_clips=2, **called)
    assert both.seeds == [5, 6, 7, 8]
    alone = video_pipe("a red apple", seed=8, **called)
    assert apart(latents_of(both)[3:], latents_of(alone)) < 1e-5
    assert apart(latents_of(both)[2:3], latents_of(alone)) > 0.1


def test_the_callers_noise_stands_for_the_seeds(video_pipe) -> None:
    seeded = video_pipe(PROMPT, steps=2, seed=4, output="latent")
    given = video_pipe(PROMPT, steps=2, latents=noise(4), output="latent")
    assert torch.equal(latents_of(seeded), latents_of(given))
    assert given.seeds == []
    assert "seed" not in given.metadata[0]


def test_a_clip_of_one_frame_is_drawn(video_pipe) -> None:
    result = video_pipe(PROMPT, frames=1, steps=2, seed=0)
    assert result.frames.shape == (1, 64, 96, 3)


def test_a_size_that_was_not_learned_is_told_drawn_at_the_nearest_and_resized(
    video_pipe,
) -> None:
    parts = (video_pipe.transformer, video_pipe.autoencoder, video_pipe.text_encoder)
    shared = replace(video_pipe.settings.shared, sizes=((96, 64), (64, 64)))
    pipe = TextToVideo(*parts, replace(video_pipe.settings, shared=shared))
    with pytest.warns(UserWarning, match=r"did not learn the size 100x70.*at 96x64.*then 64x64"):
        result = pipe(PROMPT, width=100, height=70, steps=2, seed=0)
    assert result.frames.shape == (9, 70, 100, 3)
    drawn = pipe(PROMPT, width=96, height=64, steps=2, seed=0, output="pt")
    assert isinstance(drawn.clips, torch.Tensor)
    processor = diffusers.image_processor.PixArtImageProcessor  # pyright: ignore[reportAttributeAccessIssue]
    wanted = processor.resize_and_crop_tensor(drawn.clips[0].transpose(0, 1), 100, 70)
    wanted = 127.5 * (wanted.permute(0, 2, 3, 1).numpy() + 1)
    assert np.abs(result.frames - wanted).max() <= FRAMES


def test_a_saved_clip_carries_its_settings(video_pipe, tmp_path) -> None:
    result = video_pipe("a red apple", steps=2, seed=9, motion=30, rate=8)
    ((path, _),) = result.save(tmp_path / "fox.webp")
    with open_clip(path) as clip:
        facts = clip.facts
    assert facts.frames == 9
    assert facts.rate == 8
    assert facts.settings == result.metadata[0]
    assert facts.settings["prompt"] == "a red apple"
    assert (facts.settings["motion"], facts.settings["seed"]) == (30, 9)


def test_drawn_again_from_its_settings_a_clip_is_the_same(video_pipe) -> None:
    first = video_pipe("a table", "a red apple", steps=2, seed=9, motion=30, guidance=3.5)
    names = ("prompt", "negative_prompt", "width", "height", "frames", "steps", "guidance")
    told = {name: first.metadata[0][name] for name in (*names, "solver", "seed", "motion")}
    again = video_pipe(**told)
    assert np.array_equal(first.frames, again.frames)


def test_the_motion_score_stands_behind_the_prompt(video_pipe) -> None:
    called = {"steps": 1, "guidance": 1.0, "seed": 0, "output": "latent"}
    scored = video_pipe("a red apple", motion=30, **called)
    typed = video_pipe("a red apple motion score: 30.", motion=0, **called)
    assert torch.equal(latents_of(scored), latents_of(typed))
    assert scored.metadata[0]["prompt"] == "a red apple"


def test_the_native_dialect_keeps_capitals_and_pads_the_null_prompt(video_pipe) -> None:
    called = {"steps": 2, "guidance": 4.0, "seed": 0, "output": "latent"}
    native = video_pipe("A RED apple", dialect="native", **called)
    assert native.metadata[0]["dialect"] == "native"
    usual = video_pipe("A RED apple", **called)
    assert apart(latents_of(usual), latents_of(video_pipe("a red apple", **called))) == 0
    assert apart(latents_of(native), latents_of(usual)) > 1e-3


# Steps


def test_steps_come_one_by_one_and_show_the_middle_frame(video_pipe) -> None:
    steps = list(video_pipe.steps(PROMPT, steps=3, seed=0))
    assert [(step.index, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [step.result is None for step in steps] == [True, True, False]
    assert steps[0].latents.shape == (1, *GRID)
    preview = steps[-1].preview()
    assert isinstance(preview, Image.Image)
    assert preview.size == (96, 64)
    frames = steps[-1].result.frames.astype(float)
    small = np.asarray(preview).astype(float)
    distances = [np.abs(small - frame).mean() for frame in frames]
    assert min(distances) < np.abs(small - frames.mean()).mean(), "it shows more than an average colour"


def test_who_stops_after_a_step_computes_no_more(video_pipe, monkeypatch) -> None:
    calls = []
    velocity = video_pipe.transformer.velocity
    monkeypatch.setattr(
        video_pipe.transformer, "velocity", lambda *a, **k: (calls.append(1), velocity(*a, **k))[1]
    )
    for _ in video_pipe.steps(PROMPT, steps=5, seed=0):
        break
    assert len(calls) == 1


# Errors


def test_a_decoder_out_of_memory_leaves_the_latents(video_pipe, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(video_pipe.autoencoder, "decode", fail)
        with pytest.raises(MemoryLimitError, match="pass the error's `latents`") as caught:
            video_pipe(PROMPT, steps=2, seed=0)
    wanted = video_pipe(PROMPT, steps=2, seed=0, output="pt").clips
    assert torch.equal(video_pipe.decode(caught.value.latents), wanted)


def test_a_step_that_gives_nan_is_told(video_pipe, monkeypatch) -> None:
    monkeypatch.setattr(
        video_pipe.transformer, "velocity", lambda latents, *_, **__: torch.full((2, *GRID), torch.nan)
    )
    with pytest.raises(NumericsError, match="Step 1 of 2 gave NaN"):
        video_pipe(PROMPT, steps=2, guidance=3.0, seed=0)


def test_a_model_of_images_is_refused_by_name(folder) -> None:
    with pytest.raises(WeightsError, match="is a model of images"):
        TextToVideo.from_pretrained(folder, device="cpu")


def test_arguments_of_diffusers_are_answered_with_ours_and_slips_with_the_nearest(video_pipe) -> None:
    with pytest.raises(ArgumentError, match=r"^num_frames is not an argument here: use frames=17\.$"):
        video_pipe("a fox", num_frames=9)
    with pytest.raises(ArgumentError, match=r"did you mean motion\?"):
        video_pipe.steps("a fox", motoin=9)


def test_the_pipeline_tells_what_it_has_loaded(video_pipe) -> None:
    first, *parts = repr(video_pipe).splitlines()
    assert first == "TextToVideo: tiny-video, on cpu"
    assert [part.split()[:2] for part in parts] == [
        ["transformer", "SanaVideo,"],
        ["autoencoder", "WanVAE,"],
        ["text_encoder", "Gemma2,"],
    ]
