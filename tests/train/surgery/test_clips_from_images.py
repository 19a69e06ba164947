"""A transformer of clips that starts from one of images gives its velocities in every frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models import layers
from sanakit.models.sana import SANA_1_5_1600M, Sana, SanaConfig
from sanakit.models.video import sana_video
from sanakit.models.video.sana_video import SANA_VIDEO_2B_480P, SanaVideoConfig
from sanakit.train.surgery.clips_from_images import start_from_images

IMAGE = SanaConfig(
    depth=2, width=64, cross_heads=4, head_dim=16, text_width=48, latent_channels=4, qk_norm=True
)
CLIPS = SanaVideoConfig(
    depth=2, width=64, cross_heads=4, head_dim=16, text_width=48, latent_channels=4, mlp_ratio=2.5
)
WIDER = replace(CLIPS, mlp_ratio=3.0)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Sana:
    """A transformer all of whose parameters matter, in float64, its attention too, which usually is not."""

    def sums(key: Tensor, value: Tensor) -> Tensor:
        key = key.relu()
        return torch.cat([key.transpose(-1, -2) @ value, key.sum(-2, keepdim=True)], dim=-2)

    def attend(query: Tensor, sums: Tensor) -> Tensor:
        query = query.relu()
        return query @ sums[..., :-1, :] / (query @ sums[..., -1:, :].transpose(-1, -2) + 1e-15)

    monkeypatch.setattr(layers, "attention_sums", sums)
    monkeypatch.setattr(layers, "attend", attend)
    torch.manual_seed(0)
    sana = Sana(IMAGE)
    for parameter in sana.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return sana.double()


def arguments(side: tuple[int, int] = (4, 6)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, *side, generator=generator, dtype=torch.float64)
    text = torch.randn(2, 5, 48, generator=generator, dtype=torch.float64)
    return latents, torch.tensor([0.3, 0.9]), text, torch.tensor([[True] * 5, [True] * 2 + [False] * 3])


def unrotated(frames: range, height: int, width: int, head_dim: int) -> Tensor:
    return torch.ones(len(frames), height * width, head_dim // 2, dtype=torch.complex128)


@pytest.mark.parametrize("config", [CLIPS, WIDER], ids=["as wide", "wider"])
@pytest.mark.parametrize("frames", [1, 3])
def test_without_the_rotation_every_frame_has_the_velocity_of_the_image(
    trained: Sana, config: SanaVideoConfig, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1e-12 in float64."""
    monkeypatch.setattr(sana_video, "rotations", unrotated)
    clips, notes = start_from_images(trained, config)
    assert notes == []
    latents, *rest = arguments()
    with torch.no_grad():
        expected = trained(latents, *rest)
        found = clips(latents[:, :, None].repeat(1, 1, frames, 1, 1), *rest)
    for frame in found.unbind(2):
        torch.testing.assert_close(frame, expected, atol=1e-12, rtol=1e-12)


def test_a_frame_of_one_token_is_that_of_the_image_with_the_rotation_too(trained: Sana) -> None:
    clips, _ = start_from_images(trained, WIDER)
    latents, *rest = arguments((1, 1))
    with torch.no_grad():
        expected = trained(latents, *rest)
        torch.testing.assert_close(clips(latents[:, :, None], *rest)[:, :, 0], expected, atol=1e-12, rtol=0)
        larger, *rest = arguments()
        assert not torch.allclose(clips(larger[:, :, None], *rest)[:, :, 0], trained(larger, *rest))


def test_every_new_channel_learns_in_two_steps(trained: Sana) -> None:
    """The outputs of new channels are zero at first and learn at once; then what they read learns, too."""
    clips, _ = start_from_images(trained, WIDER)
    latents, t, text, mask = arguments()
    clip = torch.stack([latents, latents.flip(0), 0.5 * latents], dim=2)
    optimizer = torch.optim.SGD(clips.parameters(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        clips(clip, t, text, mask).square().mean().backward()
        optimizer.step()
    for block in clips.blocks:
        for layer in (block.mlp.point_conv.conv, block.mlp.inverted_conv.conv, block.mlp.t_conv):
            assert layer.weight.grad is not None
            assert (layer.weight.grad != 0).all()


def test_other_latents_and_heads_are_told(trained: Sana) -> None:
    other = replace(CLIPS, latent_channels=8, patch=2, head_dim=32, cross_heads=2)
    clips, notes = start_from_images(trained, other)
    assert [note.split()[0] for note in notes] == ["The", "Heads", "Cross-attention's"]
    assert torch.equal(clips.blocks[1].attn.qkv.weight, trained.blocks[1].attn.qkv.weight)
    latents, *rest = arguments()
    clip = torch.cat([latents, latents], dim=1)[:, :, None]
    assert torch.isfinite(clips(clip, *rest)).all()
    before = clips.blocks[0].attn.proj.weight.clone()
    trained.blocks[0].attn.proj.weight.data.zero_()
    assert torch.equal(clips.blocks[0].attn.proj.weight, before)  # no memory is shared


@pytest.mark.parametrize(
    ("image", "clips", "told"),
    [
        (replace(IMAGE, depth=3), CLIPS, "depth = 3"),
        (replace(IMAGE, time_scale=1.0), CLIPS, "time_scale = 1.0"),
        (replace(IMAGE, qk_norm=False), CLIPS, "qk_norm = False"),
        (replace(IMAGE, mlp_ratio=3.0), CLIPS, "192 channels, that of clips 160"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(image: SanaConfig, clips: SanaVideoConfig, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        start_from_images(Sana(image), clips)


def test_the_published_sizes_fit() -> None:
    """SANA-1.5's transformer of 1.6 billion and SANA-Video's of 2 billion, without memory for either."""
    with torch.device("meta"):
        clips, notes = start_from_images(Sana(SANA_1_5_1600M), SANA_VIDEO_2B_480P)
    assert clips.config == SANA_VIDEO_2B_480P
    assert len(notes) == 2  # latents and heads
