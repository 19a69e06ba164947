"""The embedded model: diffusers opens its folder and draws the same images with its default settings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sanakit import TextToImage
from sanakit.eval.metrics.similarity import psnr
from sanakit.weights import load_settings
from sanakit.weights.find.catalog import CATALOG

FOLDER = CATALOG["pocket"].folder


@pytest.fixture(scope="module")
def ours() -> TextToImage:
    return TextToImage.from_pretrained("pocket")


@pytest.fixture(scope="module")
def theirs():
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_small_and_half_precision():
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 60 * 2**20
    for path in FOLDER.rglob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        assert {info["dtype"] for name, info in header.items() if name != "__metadata__"} == {"F16"}


@pytest.mark.parametrize("prompt", ["a red apple", "a flat vector illustration of a panda", ""])
def test_diffusers_draws_the_same_picture(ours: TextToImage, theirs, prompt: str):
    noise = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(3))
    settings = load_settings(FOLDER)
    mine = ours(prompt, latents=noise, output="pt").images
    drawn = theirs(
        prompt,
        latents=noise.clone(),
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        width=settings.width,
        height=settings.height,
        use_resolution_binning=False,
        output_type="pt",
    ).images
    assert psnr(mine, drawn * 2 - 1).min() >= 40


def test_the_prompt_decides_what_is_drawn(ours: TextToImage):
    drawn = ours(["a red apple", "a blue heart", "a green tree"], seed=0)
    red, blue, green = (np.asarray(image, dtype=float).reshape(-1, 3) for image in drawn.images)

    def coloured(pixels: np.ndarray) -> np.ndarray:
        """Mean colour of the pixels that are not white."""
        return pixels[pixels.min(1) < 200].mean(0)

    assert coloured(red).argmax() == 0
    assert coloured(blue).argmax() == 2
    assert coloured(green).argmax() == 1
