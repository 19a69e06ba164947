"""SANA-Video 2.0 through the pipeline of clips: its folder, its defaults, the equation step by step."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sanakit.flow.euler import euler_times
from sanakit.models.video.sana_video2 import SanaVideo2, SanaVideo2Config
from sanakit.pipelines.video.request import VideoSpec
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.weights import save_transformer
from sanakit.weights.video.settings import load_video_settings
from tests.models.video.sana_video2.written_out import randomised
from tests.pipelines.video.tiny import DEFAULTS, apart, noise, save_tiny

CONFIG = SanaVideo2Config(
    depth=4,
    width=48,
    cross_heads=2,
    head_dim=24,
    softmax_head_dim=48,
    text_width=48,
    latent_channels=4,
    group=2,
    sample_size=6,
)
PROMPT, NULL = "two green foxes on a table", "a red apple"
GRID = (4, 3, 8, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny(tmp_path_factory.mktemp("video2") / "model", defaults=DEFAULTS | {"solver": "euler"})
    torch.manual_seed(2)
    save_transformer(folder / "transformer", randomised(CONFIG, 0.1))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"transformer": ["diffusers", "SanaVideo2Transformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def pipe(folder) -> TextToVideo:
    return TextToVideo.from_pretrained(folder, device="cpu")


@torch.no_grad()
def by_hand(pipe: TextToVideo, first: Tensor | None, steps: int = 3, scale: float = 3.0) -> Tensor:
    """Euler's steps of the velocity that training sees, of both prompts."""
    model, encoder = pipe.transformer, pipe.text_encoder
    assert isinstance(model, SanaVideo2)
    features = [*encoder.encode_negative([NULL]), *encoder.encode([PROMPT])]
    x, t = noise(7), torch.ones(1, 3)
    if first is not None:
        x[:, :, :1], t[:, 0] = first, 0
    times = euler_times(steps, pipe.settings.shared.shift)
    for now, then in pairwise(times):
        u, c = (model(x, now * t, text[None]) for text in features)
        step = x + (then - now) * (u + scale * (c - u))
        x = step if first is None else torch.cat([first, step[:, :, 1:]], dim=2)
    return x


def test_a_folder_opens_by_its_class(pipe):
    assert isinstance(pipe.transformer, SanaVideo2)
    assert pipe.spec == VideoSpec.of(pipe.settings, CONFIG, pipe.autoencoder.config)
    assert not pipe.spec.causal


def test_what_a_folder_does_not_say_is_as_released(folder):
    ours = folder / "sanakit.json"
    kept = ours.read_text()
    try:
        ours.write_text(json.dumps({"format": 1}))
        settings = load_video_settings(folder)
    finally:
        ours.write_text(kept)
    shared = settings.shared
    assert (shared.steps, shared.guidance, shared.solver) == (50, 8.0, "dpm")
    assert (settings.frames, settings.rate, settings.score()) == (193, 24, 20)


@torch.no_grad()
def test_clips_of_prompts_are_the_equations(pipe):
    drawn = pipe(PROMPT, NULL, seed=7, output="latent").clips
    assert apart(drawn, by_hand(pipe, None)) < 1e-4


@torch.no_grad()
def test_clips_that_begin_with_an_image_are_the_equations(pipe):
    y, x = np.mgrid[:64, :96]
    image = Image.fromarray(np.stack([2 * x, 3 * y, (x * y) % 256], axis=-1).astype(np.uint8))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    first = pipe.autoencoder.normalise(pipe.autoencoder.encode(pixels))
    drawn = pipe(PROMPT, NULL, seed=7, image=image, output="latent").clips
    assert torch.equal(drawn[:, :, :1], first)
    assert apart(drawn, by_hand(pipe, first)) < 1e-4


def test_two_clips_of_a_call_are_those_of_their_seeds(pipe):
    both = pipe(PROMPT, seed=7, num_clips=2, steps=1)
    alone = pipe(PROMPT, seed=8, steps=1)
    frames = [result.clips for result in (both, alone)]
    assert np.abs(frames[0][1].frames.astype(int) - frames[1][0].frames.astype(int)).max() <= 1
    assert frames[0][0].frames.shape == (9, 64, 96, 3)
