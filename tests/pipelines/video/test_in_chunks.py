"""Causal models through `TextToVideo`: stream and plain call against the sampler and the whole decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.dialect import CROSS_NORM_EPS
from sanakit.errors import SettingsError, SizeError
from sanakit.flow.few_step import FewStep
from sanakit.pipelines.request import make_sampler
from sanakit.pipelines.video.chunks import ChunkSampler, ClipPoint
from sanakit.pipelines.video.request import VideoSpec, check_clip_request
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.weights.video.settings import ChunkSettings
from tests.pipelines.video.tiny import SIZE, TRANSFORMER, apart, save_tiny

EQUAL = 1e-5  # largest difference over largest value
LEVEL = 1  # of 255: what rounding to 8 bits may add
PROMPTS = ["a red apple", "two green foxes on a table"]
LENGTHS = [9, 8]  # frames of chunks of 3 and 2 latents
CHUNKS = {"length": 2, "times": [1.0, 0.9, 0.7], "shift": 5.0}


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    defaults = {**SIZE, "frames": 17, "motion": 0, "chunks": CHUNKS}
    config = replace(TRANSFORMER, causal=True)
    return save_tiny(tmp_path_factory.mktemp("causal") / "model", config, defaults)


@pytest.fixture(scope="module")
def causal(causal_folder: Path) -> TextToVideo:
    return TextToVideo.from_pretrained(causal_folder, device="cpu")


@pytest.fixture(scope="module")
def undistilled(causal: TextToVideo) -> TextToVideo:
    shared = replace(causal.settings.shared, steps=2, guidance=3.0)
    chunks = ChunkSettings(length=2, times=None)
    settings = replace(causal.settings, shared=shared, chunks=chunks, negative_prompt="a table")
    return TextToVideo(causal.transformer, causal.autoencoder, causal.text_encoder, settings)


def contexts(pipe: TextToVideo, features: list[torch.Tensor]):
    return [pipe.transformer.prepare([text], eps=CROSS_NORM_EPS["diffusers"]) for text in features]


def by_hand(pipe: TextToVideo, prompts: list[str], seed: int, **settings) -> torch.Tensor:
    """Draw chunks of 3 and 2 latents with the sampler alone."""
    sampler = ChunkSampler(transformer=pipe.transformer, height=8, width=12, **settings)
    point, found = ClipPoint.start(seed), []
    for length, prompt in zip([3, 2], contexts(pipe, pipe.text_encoder.encode(prompts)), strict=True):
        latents, point = sampler.draw(point, length, prompt)
        found.append(latents)
    return torch.cat(found, dim=2)


def whole(chunks) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in chunks]).astype(int)


def test_a_stream_has_the_samplers_latents_and_the_whole_decoders_frames(causal) -> None:
    chunks = list(causal.stream(PROMPTS, seed=3))
    assert [len(chunk.frames) for chunk in chunks] == LENGTHS
    assert [(chunk.first, chunk.index, chunk.total) for chunk in chunks] == [(0, 1, 2), (3, 2, 2)]
    latents = torch.cat([chunk.latents for chunk in chunks], dim=2)
    assert apart(latents, by_hand(causal, PROMPTS, 3, solver=FewStep([1.0, 0.9, 0.7], 5.0))) < EQUAL
    codec = causal.autoencoder
    with torch.no_grad():
        wanted = codec.decode(codec.denormalise(latents))[0].permute(1, 2, 3, 0).clamp(-1, 1).numpy()
    assert np.abs(whole(chunks) - 127.5 * (wanted + 1)).max() <= LEVEL
    assert wanted.std() > 0.05, "they could agree by chance"


def test_the_plain_call_has_the_streams_frames(causal) -> None:
    result = causal(" <split> ".join(PROMPTS), seed=3)
    assert np.abs(whole(causal.stream(PROMPTS, seed=3)) - result.frames).max() <= LEVEL
    told = result.metadata[0]
    assert (told["solver"], told["steps"], told["guidance"]) == ("few-step", 3, 1.0)
    names = ("prompt", "seed", "frames", "steps", "guidance", "solver", "motion", "negative_prompt")
    again = causal(**{name: told[name] for name in names})
    assert np.array_equal(again.frames, result.frames)


def test_a_causal_model_that_is_not_distilled_has_solver_and_guidance(undistilled) -> None:
    result = undistilled(" <split> ".join(PROMPTS), seed=4, output="latent")
    (negative,) = contexts(undistilled, undistilled.text_encoder.encode_negative(["a table"]))
    guided = {"solver": make_sampler("dpm", 2, 8.0), "negative": negative, "guidance": 3.0}
    assert apart(result.clips, by_hand(undistilled, PROMPTS, 4, **guided)) < EQUAL
    assert (result.metadata[0]["solver"], result.metadata[0]["guidance"]) == ("dpm", 3.0)


def test_seeds_draw_their_own_clips_alone_and_together(causal) -> None:
    both = causal(PROMPTS, seed=5, num_clips=2, output="latent")
    assert both.seeds == [5, 6, 7, 8]
    assert apart(both.clips[3:], causal(PROMPTS[1], seed=8, output="latent").clips) < EQUAL
    assert apart(both.clips[2:3], both.clips[3:]) > 0.1


def test_a_chunks_prompt_changes_it_and_not_those_before(causal) -> None:
    one, other = (causal.stream([PROMPTS[0], then], seed=1) for then in (PROMPTS[0], PROMPTS[1]))
    assert apart(next(one).latents, next(other).latents) < EQUAL
    assert apart(next(one).latents, next(other).latents) > 1e-3


def test_an_image_is_the_first_latent_frame(causal) -> None:
    image = Image.effect_mandelbrot((96, 64), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    chunk = next(causal.stream("a fox", image=image, seed=2))
    request = check_clip_request(causal.spec, "a fox", image=image)
    assert torch.equal(chunk.latents[:, :, :1], causal.encode(request.first))


def test_a_stream_goes_on_behind_its_chunks(causal) -> None:
    prompt = PROMPTS[0]
    once = list(causal.stream(prompt, frames=25, seed=6))
    begun = list(causal.stream(prompt, frames=17, seed=6))[:1]
    begun.append(next(causal.stream(prompt, frames=17, after=begun)))
    more = list(causal.stream(prompt, frames=25, after=begun))
    assert [len(chunk.frames) for chunk in (*begun, *more)] == [9, 8, 8]
    assert np.abs(whole([*begun, *more]) - whole(once)).max() <= LEVEL
    assert "seed" not in more[0].settings
    other = list(causal.stream(prompt, frames=25, after=begun, seed=7))
    assert apart(other[0].latents, more[0].latents) > 1e-3


def test_steps_are_chunks_and_the_last_has_the_clip(causal) -> None:
    steps = list(causal.steps("a fox", seed=0, output="pt"))
    assert [(step.index, step.total) for step in steps] == [(1, 2), (2, 2)]
    assert steps[0].result is None
    assert steps[-1].result.clips.shape == (1, 3, 17, 64, 96)
    assert steps[0].preview().size == (96, 64)


def test_a_stream_that_is_left_draws_no_more(causal, monkeypatch) -> None:
    calls, velocity = [], causal.transformer.velocity
    monkeypatch.setattr(
        causal.transformer, "velocity", lambda *a, **k: (calls.append(1), velocity(*a, **k))[1]
    )
    next(causal.stream("a fox", seed=0))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"negative_prompt": "a table"}, "takes no negative prompt"),
        ({"guidance": 3.0}, "drawn without guidance"),
        ({"guidance_kind": "apg"}, "drawn without guidance"),
        ({"steps": 20}, "is distilled to 3 steps"),
        ({"solver": "dpm"}, 'supports only "few-step"'),
        ({"latents": torch.zeros(1, 4, 5, 8, 12)}, "pass a seed, not latents"),
        ({"clip": VideoClip(frames=np.zeros((9, 64, 96, 3), np.uint8), rate=16)}, "cannot redraw clips"),  # pyright: ignore
        ({"prompt": "a <split> b <split> c"}, "3 prompts came for 2 chunks"),
    ],
)
def test_a_setting_without_use_is_refused(causal, settings, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence):
        causal.steps(**{"prompt": "a fox"} | settings)


def test_more_latent_frames_than_positions_are_refused_without_weights(causal_folder) -> None:
    spec = VideoSpec.read(causal_folder)
    with pytest.raises(SizeError, match="at most 253 frames"):
        check_clip_request(spec, "a fox", frames=257)
    published = replace(spec, max_positions=1024)
    assert check_clip_request(published, "a fox", frames=4093).frames == 4093
    with pytest.raises(SizeError, match="at most 4093 frames"):
        check_clip_request(published, "a fox", frames=4097)


def test_a_model_of_whole_clips_is_refused_by_stream_and_for_prompts_of_chunks(video_pipe) -> None:
    with pytest.raises(SettingsError, match="is not causal and draws whole clips"):
        video_pipe.stream(PROMPTS)
    with pytest.raises(SettingsError, match="parts the prompts of chunks"):
        video_pipe.steps("a <split> b")


def test_what_cannot_be_gone_on_with_is_refused(causal) -> None:
    chunks = list(causal.stream("a fox", seed=0))
    with pytest.raises(SettingsError, match="ask for more frames"):
        causal.stream("a fox", after=chunks)
    with pytest.raises(SettingsError, match="not whole"):
        causal.stream("a fox", frames=25, after=chunks[1:])
    with pytest.raises(SettingsError, match="2 prompts came for 1 chunk to"):
        causal.stream(PROMPTS, frames=25, after=chunks)
    with pytest.raises(SettingsError, match="omit the image"):
        causal.stream("a fox", frames=25, after=chunks, image=Image.new("RGB", (96, 64)))
    with pytest.raises(SettingsError, match="one clip"):
        causal.stream("a fox", num_clips=2)
