"""A Wan autoencoder that starts as a linear codec of its clips."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.eval.metrics.clips import clip_figures
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from sanakit.train.surgery.wan_linear_init import start_linear_clips

CONFIG = WanVAEConfig(width=16, depth=1, latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16)
CLIPS = 16
STUDY = 2.0  # dB below principal components, where the study of this start was: 21.75 of 23.70


def moving(count: int, seed: int = 0, frames: int = 13, side: int = 32) -> Tensor:
    """Discs on white that go straight on, two to a clip: B 3 T S S in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*[torch.arange(side) + 0.5] * 2, indexing="ij")
    time = torch.arange(frames)[:, None, None] - frames // 2
    clips = torch.ones(count, 3, frames, side, side)
    for _ in range(2):
        place, speed, radius = torch.rand(3, count, 2, 1, 1, 1, generator=generator)
        middle = side * place + 3 * (speed - 0.5) * time  # B 2 T 1 1
        away = torch.hypot(y - middle[:, 0], x - middle[:, 1])  # B T S S
        covered = torch.sigmoid(2 * (side * (0.06 + 0.14 * radius[:, 0]) - away))[:, None]
        clips = clips + covered * (torch.rand(count, 3, 1, 1, 1, generator=generator) * 2 - 1 - clips)
    return clips


def principal(clips: Tensor, learnt: Tensor) -> Tensor:
    """The best linear codec of cells: the first frame's 8x8 pixels, 4x8x8 of the others, 16 values each."""

    def cells(x: Tensor, time: int) -> Tensor:
        b, c, t, h, w = x.shape
        x = x.reshape(b, c, t // time, time, h // 8, 8, w // 8, 8)
        return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)  # B t h w values

    def drawn(x: Tensor, y: Tensor, time: int) -> Tensor:
        rows = cells(y, time).flatten(0, 3)
        mean = rows.mean(0)
        components = torch.linalg.eigh((rows - mean).T @ (rows - mean))[1][:, -16:]
        kept = mean + (cells(x, time) - mean) @ components @ components.T
        b, c, t, h, w = x.shape
        kept = kept.unflatten(4, (c, time, 8, 8)).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return kept.reshape(b, c, t, h, w)

    first = drawn(clips[:, :, :1], learnt[:, :, :1], 1)
    return torch.cat((first, drawn(clips[:, :, 1:], learnt[:, :, 1:], 4)), dim=2)


@pytest.fixture(scope="module")
def started() -> WanVAE:
    torch.manual_seed(0)
    model = WanVAE(CONFIG)
    start_linear_clips(model, moving(CLIPS))
    return model


@torch.no_grad()
def test_the_start_is_near_principal_components(started: WanVAE) -> None:
    clips = moving(CLIPS)
    best = clip_figures(principal(clips, clips), clips)
    found = clip_figures(started.draw(started.encode(clips)), clips)
    assert 25 < best.psnr < 35
    assert found.psnr > best.psnr - STUDY
    assert 0.7 < found.motion < 1.5
    others = moving(4, seed=1, frames=25)  # longer than what it was fitted to
    assert clip_figures(started.draw(started.encode(others)), others).psnr > 20
    random = WanVAE(CONFIG)
    assert clip_figures(random.draw(random.encode(clips)), clips).psnr < 12


@torch.no_grad()
def test_branches_are_silent_and_what_they_hold_is_kept_random(started: WanVAE) -> None:
    state = started.state_dict()
    silent = {name for name, value in state.items() if not value.any()}
    assert {name for name in state if ".conv2." in name or ".proj." in name} <= silent
    assert all(state[name].std() > 0 for name in state if ".conv1.weight" in name)


def test_all_layers_that_are_not_behind_a_silent_one_get_a_gradient(started: WanVAE) -> None:
    clips = moving(2, seed=5)
    loss = (started.draw(started.moments(clips).chunk(2, dim=1)[0]) - clips).abs().mean()
    names, parameters = zip(*started.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    still = {name for name, g in zip(names, gradients, strict=True) if g is None or not g.any()}
    behind = (".conv1.", ".norm1.", ".norm2.", ".attentions.0.norm.", ".to_qkv.")
    assert still == {name for name in names if any(part in name for part in behind)}


@pytest.mark.parametrize(
    "config", [replace(CONFIG, depth=2), replace(CONFIG, width=8), replace(CONFIG, multipliers=(1, 2, 2, 4))]
)
def test_other_sizes_are_refused(config: WanVAEConfig) -> None:
    with pytest.raises(SettingsError, match="linear start needs"):
        start_linear_clips(WanVAE(config), moving(2))


def test_clips_in_which_the_decoder_cannot_learn_to_look_back_are_refused() -> None:
    with pytest.raises(SettingsError, match="13 frames or more, and these have 9"):
        start_linear_clips(WanVAE(CONFIG), moving(2, frames=9))
