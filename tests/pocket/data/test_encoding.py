"""Many images become latents, and tell how far they are."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from sanakit.cli.terminal import logs_on_stderr
from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.pocket.data import encoding as module
from sanakit.pocket.data.encoding import encode_images

STAGES = (Stage(8, 0), Stage(8, 1), Stage(16, 1))
IMAGES = np.random.default_rng(0).integers(0, 256, (37, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def codec() -> DCAE:
    torch.manual_seed(0)
    codec = DCAE(DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=8, head_dim=8))
    for name, parameter in codec.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return codec


def test_each_picture_has_the_latents_that_it_has_alone(codec: DCAE) -> None:
    latents = encode_images(codec, IMAGES)
    assert not latents.requires_grad
    with torch.no_grad():
        for i in (0, 15, 16, 36):
            torch.testing.assert_close(latents[i : i + 1], codec.encode(to_tensor(IMAGES[i : i + 1])))


def test_the_command_tells_how_far_encoding_is(codec: DCAE, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "TOLD_EVERY", -1.0)
    encode_images(codec, IMAGES)
    assert capsys.readouterr().err == ""  # a library is silent
    with logs_on_stderr("sanakit.pocket"):
        encode_images(codec, IMAGES)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"Encoding images: {done} of 37" for done in (16, 32, 37)]
    assert not logging.getLogger("sanakit.train").handlers
