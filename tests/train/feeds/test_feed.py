"""Latents as the transformer sees them, and back: of images and of clips."""

from __future__ import annotations

import torch

from sanakit.models.dc_ae import DCAE
from sanakit.models.video.wan_vae import WanVAE
from sanakit.train.feeds.feed import decoded, encoded
from tests.pipelines.video.tiny import AUTOENCODER
from tests.train.reinforce.small import CODEC


def test_images_are_decoded_from_their_scaled_latents() -> None:
    torch.manual_seed(0)
    codec, images = DCAE(CODEC).eval(), torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        wanted = codec.decode(codec.encode(images))
    torch.testing.assert_close(decoded(codec, encoded(codec, images)), wanted, rtol=1e-4, atol=1e-5)


def test_clips_are_decoded_from_their_normalised_latents() -> None:
    torch.manual_seed(0)
    codec, clips = WanVAE(AUTOENCODER).eval(), torch.rand(2, 3, 5, 16, 16) * 2 - 1
    assert any(codec.config.latents_mean)
    with torch.no_grad():
        wanted = codec.decode(codec.encode(clips))
    torch.testing.assert_close(decoded(codec, encoded(codec, clips)), wanted, rtol=1e-4, atol=1e-5)
