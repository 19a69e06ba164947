"""Latents as the transformer sees them, of images and of clips by both autoencoders of clips."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from sanakit.data.cache.encode import encode_part, latents_of, read_ahead
from sanakit.data.cache.store import LATENTS
from sanakit.data.medium import CLIPS
from sanakit.data.read.open import open_source
from sanakit.errors import NumericsError
from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from tests.data.clip_files import counted
from tests.weights.layouts.test_ltx2_vae import SMALL


def wan() -> WanVAE:
    torch.manual_seed(0)
    statistics = {"latents_mean": (0.5, -1.0, 0.0, 0.3), "latents_std": (0.5, 1.0, 2.0, 1.5)}
    return WanVAE(WanVAEConfig(width=8, depth=1, latent_channels=4, **statistics)).eval()


def ltx2() -> LTX2VAE:
    torch.manual_seed(0)
    vae = LTX2VAE(SMALL).eval()
    vae.latents_mean.uniform_(-1, 1)
    vae.latents_std.uniform_(0.5, 2)
    return vae


@pytest.mark.parametrize("make", [wan, ltx2])
def test_clips_are_normalised_and_the_first_latent_is_that_of_the_first_frame(make) -> None:
    codec = make()
    clips = torch.rand(2, 3, 9, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        wanted = torch.stack([codec.normalise(codec.encode(clip[None]))[0] for clip in clips])
        first = codec.normalise(codec.encode(clips[:, :, :1]))
    latents = latents_of(codec, clips)
    assert latents.is_contiguous()
    torch.testing.assert_close(latents, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(latents[:, :, :1], first, rtol=1e-4, atol=1e-4)


def test_samples_come_in_the_order_of_their_tasks_and_broken_ones_with_their_defect(tmp_path: Path) -> None:
    for number in range(5):
        counted(tmp_path / f"{number}.webp", 9, caption=f"clip {number}")
    (tmp_path / "2.webp").write_bytes((tmp_path / "1.webp").read_bytes()[:-9])
    source = open_source(tmp_path, CLIPS)
    tasks = (((9, 32, 32), numbers) for numbers in ([4, 2], [0], [3, 1]))
    parts = list(read_ahead(source, tasks, Fraction(16)))
    assert [[image.number for image, _ in part] for part in parts] == [[4, 2], [0], [3, 1]]
    broken = parts[0][1]
    assert broken[1] is None
    assert broken[0].failed is not None
    assert broken[0].failed.startswith("is damaged or cut off (")
    encode_part(parts[2], wan(), None, [])
    shapes = [image.latents.shape for image, _ in parts[2] if image.latents is not None]
    assert shapes == [(4, 3, 4, 4)] * 2
    overflowing = wan()
    with torch.no_grad():
        next(overflowing.parameters()).fill_(torch.inf)
    with pytest.raises(NumericsError, match=rf"The latents of 0\.webp are not finite in {LATENTS}"):
        encode_part(parts[1], overflowing, None, [])
