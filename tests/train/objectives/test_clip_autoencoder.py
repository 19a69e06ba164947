"""Training a video autoencoder: what its loss is, that clips get better, and that parts add up."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from sanakit.train.feeds.clips import Windows
from sanakit.train.objectives.clip_autoencoder import ClipAutoencoderObjective, ClipTerms, clip_loss
from sanakit.train.parts import Part

TINY = WanVAEConfig(width=4, depth=1, latent_channels=4, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4)
SIDE = 16
WHOLE = Part(0, 4, 4)


class Bars:
    """Loops of 12 frames: a dark bar that walks to the right."""

    lengths = (12,) * 3

    def take(self, number: int, start: int, step: int, count: int) -> np.ndarray:
        frames = np.full((count, SIDE, SIDE, 3), 255, np.uint8)
        for frame, time in zip(frames, start + step * np.arange(count), strict=True):
            frame[:, int(time) % 12 : int(time) % 12 + 4, number] = 40
        return frames


def objective(terms: ClipTerms | None = None) -> ClipAutoencoderObjective:
    torch.manual_seed(0)
    feed = Windows(Bars(), np.full(3, 1 / 3), frames=9, paces=(1,))
    reference = Windows(Bars(), np.full(3, 1 / 3), seed=9, frames=9).batch(0, Part(0, 3, 3)).clips
    return ClipAutoencoderObjective(WanVAE(TINY), feed, reference, terms=terms)


def test_the_loss_is_its_definition() -> None:
    random = np.random.default_rng(0)
    drawn, wanted = random.normal(size=(2, 3, 3, 5, 6, 4))
    error = drawn - wanted
    moved = np.abs(error[:, :, 1:] - error[:, :, :-1])
    parts = [np.abs(error).mean((1, 2, 3, 4)), (error**2).mean((1, 2, 3, 4)), moved.mean((1, 2, 3, 4))]
    found = clip_loss(
        torch.from_numpy(drawn), torch.from_numpy(wanted), ClipTerms(pixels=0.5, squares=3.0, motion=0.25)
    )
    expected = 0.5 * parts[0] + 3.0 * parts[1] + 0.25 * parts[2]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    one_frame = [torch.from_numpy(clip[:, :, :1]) for clip in (drawn, wanted)]
    assert clip_loss(one_frame[0], one_frame[1], ClipTerms(squares=0.0)).isfinite().all()


def test_a_few_steps_lower_the_loss_and_better_the_figures() -> None:
    trained = objective()
    before = trained.evaluate(trained.model)
    optimizer = torch.optim.AdamW(trained.model.parameters(), lr=3e-3)
    losses = []
    for step in range(8):
        optimizer.zero_grad()
        loss = trained.loss(trained.batch(step, WHOLE))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = trained.evaluate(trained.model)
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    assert after["psnr"] > before["psnr"] + 1
    assert set(after) == {"psnr", "inner", "flicker", "motion"}


def test_every_parameter_but_those_of_the_variance_learns() -> None:
    trained = objective()
    trained.loss(trained.batch(0, WHOLE)).backward()
    still = {name for name, p in trained.model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set()
    variance = cast(WanVAE, trained.model).quant_conv.weight.grad
    assert variance is not None
    assert not variance[4:].any()


def test_parts_add_up_to_the_whole_batch() -> None:
    trained = objective()
    whole = trained.loss(trained.batch(3, WHOLE))
    parts = sum(trained.loss(trained.batch(3, Part(*cut, 4))) for cut in ((0, 1), (1, 4)))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_the_sheet_shows_clips_above_their_reconstructions() -> None:
    trained = objective()
    sheet = trained.sheet(trained.model)
    assert sheet.size == (5 * SIDE, 2 * 3 * SIDE)  # every other frame of 9; 3 clips
    original = trained.reference[1, :, 4].add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    shown = np.asarray(sheet)[2 * SIDE : 3 * SIDE, 2 * SIDE : 3 * SIDE]
    assert np.abs(shown.astype(int) - original).max() <= 1


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="must not be negative"):
        ClipTerms(motion=-1.0)
    with pytest.raises(SettingsError, match="pixels or squares must be above 0"):
        ClipTerms(pixels=0.0, squares=0.0)
    feed = Windows(Bars(), np.ones(3))
    with pytest.raises(SettingsError, match="trained whole"):
        ClipAutoencoderObjective(WanVAE(TINY, "decoder"), feed, Tensor())
