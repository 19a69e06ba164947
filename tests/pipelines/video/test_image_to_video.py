"""Clips that begin with an image, against diffusers and an oracle in float64; clips redrawn from a clip.

The oracle is the equation itself: Euler's steps of the velocity that `SanaVideo.forward`, the way of
training, gives for padded text and a time of each frame. diffusers cannot draw several clips of one image.
"""

from __future__ import annotations

import copy
import warnings
from fractions import Fraction

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.errors import SettingsError
from sanakit.flow.euler import euler_times
from sanakit.pipelines.video.text_to_video import TextToVideo
from tests.pipelines.conftest import INSTRUCTION, MAX_TOKENS
from tests.pipelines.video.tiny import apart, noise

LATENTS = 1e-4  # largest difference over largest value; seen: 4e-6
FRAMES = 2  # of 255
PROMPT = "two green foxes on a table"
NULL = "a red apple"


@pytest.fixture(scope="module")
def image() -> Image.Image:
    y, x = np.mgrid[:64, :96]
    return Image.fromarray(np.stack([2 * x, 3 * y, (x * y) % 256], axis=-1).astype(np.uint8))


@pytest.fixture(scope="module")
def clip() -> VideoClip:
    frames = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), dtype=np.uint8)
    return VideoClip(frames=frames, rate=Fraction(12))


@pytest.fixture(scope="module")
def oracle(video_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = diffusers.SanaImageToVideoPipeline.from_pretrained(video_folder, local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    return theirs


def theirs(oracle, image: Image.Image, kind: str, **settings):
    return oracle(
        image,
        PROMPT,
        NULL,
        **{"width": 96, "height": 64, "frames": 9, "use_resolution_binning": False},
        output_type=kind,
        max_sequence_length=MAX_TOKENS,
        complex_human_instruction=[INSTRUCTION],
        **settings,
    ).frames


@torch.no_grad()
def first_latent(pipe: TextToVideo, image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    return pipe.autoencoder.normalise(pipe.autoencoder.encode(pixels))


@torch.no_grad()
def euler_by_hand(
    pipe: TextToVideo, latents: Tensor, prompts: list[str], times: Tensor, scale: float, held: bool
) -> Tensor:
    """Follow guided velocities in float64. held: the first frame is given, clean and at time 0."""
    model, encoder = copy.deepcopy(pipe.transformer).double(), pipe.text_encoder
    features = [*encoder.encode_negative([NULL] * len(prompts)), *encoder.encode(prompts)]
    longest = max(map(len, features))
    text = torch.stack([torch.nn.functional.pad(f, (0, 0, 0, longest - len(f))) for f in features]).double()
    mask = torch.arange(longest) < torch.tensor([len(f) for f in features])[:, None]
    x = latents.double()
    for now, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        t = torch.full((2 * len(x), x.shape[2]), now, dtype=torch.float64)
        if held:
            t[:, 0] = 0
        u, c = model(torch.cat([x, x]), t, text, mask).chunk(2)
        moved = x + (after - now) * (u + scale * (c - u))
        x = torch.cat([x[:, :, :1], moved[:, :, 1:]], dim=2) if held else moved
    return x


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_clip_of_an_image_is_that_of_diffusers(video_pipe, oracle, image, guidance) -> None:
    called = {"num_inference_steps": 4, "guidance_scale": guidance}
    wanted = theirs(oracle, image, "latent", latents=noise(7), **called)
    ours = video_pipe(PROMPT, NULL, image=image, steps=4, guidance=guidance, seed=7, output="latent")
    assert apart(ours.clips, wanted) < LATENTS
    other = video_pipe(PROMPT, NULL, steps=4, guidance=guidance, seed=7, output="latent")
    assert apart(other.clips[:, :, 1:], wanted[:, :, 1:]) > 0.1, "the image matters behind the first frame"


def test_frames_of_an_image_are_those_of_diffusers(video_pipe, oracle, image) -> None:
    called = {"num_inference_steps": 3, "guidance_scale": 4.0}
    wanted = 255 * np.asarray(theirs(oracle, image, "np", latents=noise(2), **called))[0]
    ours = video_pipe(PROMPT, NULL, image=image, steps=3, guidance=4.0, seed=2)
    assert wanted.std() > 10
    assert np.abs(ours.frames - wanted).max() <= FRAMES
    assert ours.metadata[0]["begins_with"] == "an image"


def test_no_step_touches_the_given_frame(video_pipe, image) -> None:
    given = first_latent(video_pipe, image)
    steps = list(video_pipe.steps(PROMPT, image=image, steps=4, guidance=4.0, seed=0, output="latent"))
    for step in steps:
        assert torch.equal(step.latents[:, :, :1], given)
        assert torch.equal(step.clean[:, :, :1], given)
    assert not torch.equal(steps[0].latents[:, :, 1:], steps[1].latents[:, :, 1:])


def test_several_clips_of_one_image_follow_the_equation(video_pipe, image) -> None:
    prompts = [PROMPT, "a red apple on a table"]
    called = {"steps": 4, "guidance": 4.0, "solver": "euler", "output": "latent"}
    ours = video_pipe(prompts, NULL, image=image, seed=3, num_clips=2, **called).clips
    start = noise(3, 4)
    start[:, :, :1] = first_latent(video_pipe, image)
    typed = [prompt for prompt in prompts for _ in range(2)]
    wanted = euler_by_hand(video_pipe, start, typed, euler_times(4, 8.0), 4.0, held=True)
    assert apart(ours.double(), wanted) < LATENTS
    assert apart(ours[0], ours[1]) > 0.1


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_redrawn_clip_follows_the_equation_from_where_its_steps_begin(video_pipe, clip, strength) -> None:
    called = {"steps": 4, "guidance": 4.0, "solver": "euler", "output": "latent"}
    ours = video_pipe(PROMPT, NULL, clip=clip, strength=strength, seed=3, **called).clips
    times = euler_times(4, 8.0)[-1 - round(4 * strength) :]
    source = video_pipe.autoencoder.normalise(video_pipe.autoencoder.encode(clip.tensor()).detach())
    start = (1 - times[0]) * source + times[0] * noise(3)
    assert apart(ours.double(), euler_by_hand(video_pipe, start, [PROMPT], times, 4.0, held=False)) < LATENTS
    if strength == 1:
        drawn = video_pipe(PROMPT, NULL, seed=3, **called).clips
        assert torch.equal(ours, drawn)


def test_strength_0_passes_a_clip_through_the_autoencoder(video_pipe, clip) -> None:
    ours = video_pipe(PROMPT, clip=clip, strength=0, steps=4, seed=0, output="pt").clips
    codec = video_pipe.autoencoder
    wanted = codec.decode(codec.encode(clip.tensor()).detach()).detach()
    assert apart(ours, wanted) < 1e-4


def test_a_clip_gives_its_frames_size_and_rate(video_pipe, clip) -> None:
    longer = VideoClip(frames=np.concatenate([clip.frames, clip.frames[:2]]), rate=clip.rate)
    with pytest.warns(UserWarning, match="The first 9 of the clip's 11 frames are redrawn"):
        result = video_pipe(PROMPT, clip=longer, steps=2, seed=0)
    assert result.frames.shape == (9, 64, 96, 3)
    assert result.clips[0].rate == 12
    assert (result.metadata[0]["redraws"], result.metadata[0]["strength"]) == ("a clip", 0.6)


def test_without_the_encoder_an_image_is_refused(video_folder, image) -> None:
    pipe = TextToVideo.from_pretrained(video_folder, device="cpu", encoder=False)
    with pytest.raises(SettingsError, match="load it with encoder=True"):
        pipe(PROMPT, image=image)
