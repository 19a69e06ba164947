"""The rules at the edges of time, each by itself: what the first frame does, and what a frame may see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.models.video.wan_blocks import CausalConv, ClipDown, ClipNorm, ClipUp, FrameAttention
from tests.models.video.wan_pair import build, relative_error, sample


def frames_of(layer: torch.nn.Module, x: Tensor) -> Tensor:
    """A layer of images, on each frame of B C T H W."""
    return torch.stack([layer(x[:, :, i]) for i in range(x.shape[2])], dim=2)


def test_a_convolution_sees_two_frames_before_which_are_zeros_at_first():
    conv, x = CausalConv(5, 7).double(), torch.randn(2, 5, 4, 6, 6, dtype=torch.float64)
    early = torch.zeros(2, 5, 2, 6, 6, dtype=torch.float64)
    wanted = F.conv3d(torch.cat((early, x), dim=2), conv.weight, conv.bias, padding=(0, 1, 1))
    assert relative_error(conv(x), wanted) < 1e-14
    later = x.clone()
    later[:, :, 3] = 0
    assert torch.equal(conv(later)[:, :, :3], conv(x)[:, :, :3])


def test_norm_divides_by_the_length_of_the_channels_and_survives_zeros():
    norm, x = ClipNorm(6), torch.randn(1, 6, 2, 3, 3)
    x[..., 0] = 0
    wanted = 6**0.5 * x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    assert torch.allclose(norm(x), wanted, atol=1e-6)
    assert not norm(x)[..., 0].any()


def test_halving_passes_the_first_frame_and_convolves_three_for_each_other_one():
    down, x = ClipDown(3, time=True).double(), torch.randn(1, 3, 5, 4, 6, dtype=torch.float64)
    small = frames_of(down.resample, x)
    got = down(x)
    assert got.shape == (1, 3, 3, 2, 3)
    assert relative_error(got[:, :, 0], small[:, :, 0]) < 1e-14
    assert down.time_conv is not None
    weight = down.time_conv.weight[..., 0, 0]  # K C 3
    for k in (1, 2):
        seen = small[:, :, 2 * k - 2 : 2 * k + 1]
        wanted = torch.einsum("kct,bcthw->bkhw", weight, seen) + down.time_conv.bias[:, None, None]
        assert relative_error(got[:, :, k], wanted) < 1e-14
    assert torch.equal(down(x[:, :, :1]), small[:, :, :1])


def test_halving_pads_zeros_on_the_right_and_at_the_bottom_only():
    down, x = ClipDown(2, time=False), torch.randn(1, 2, 1, 4, 4)
    padded = F.pad(x[:, :, 0], (0, 1, 0, 1))
    conv = down.resample[1]
    assert torch.allclose(down(x)[:, :, 0], F.conv2d(padded, conv.weight, conv.bias, 2), atol=1e-6)


def test_doubling_passes_the_first_frame_which_the_others_do_not_see():
    up, x = ClipUp(4, time=True).double(), torch.randn(1, 4, 3, 2, 3, dtype=torch.float64)
    got = up(x)
    assert got.shape == (1, 2, 5, 4, 6)
    assert relative_error(got[:, :, :1], frames_of(up.resample, x[:, :, :1])) < 1e-14
    other = x.clone()
    other[:, :, 0] = 0
    assert torch.equal(up(other)[:, :, 1:], got[:, :, 1:])
    assert up.time_conv is not None
    pairs = up.time_conv(x[:, :, 1:])  # zeros before frame 1
    early = torch.cat((torch.zeros_like(x[:, :, :1]), x[:, :, 1:]), dim=2)
    assert relative_error(pairs, up.time_conv(early)[:, :, 1:]) < 1e-14
    for k in (0, 1):
        first, second = pairs[:, :4, k : k + 1], pairs[:, 4:, k : k + 1]
        wanted = frames_of(up.resample, torch.cat((first, second), dim=2))
        assert relative_error(got[:, :, 1 + 2 * k : 3 + 2 * k], wanted) < 1e-14
    assert up(x[:, :, :1]).shape == (1, 2, 1, 4, 6)


def test_attention_stays_within_a_frame():
    attention, x = FrameAttention(4), torch.randn(1, 4, 3, 2, 2)
    other = x.clone()
    other[:, :, 1] += 1
    changed = (attention(other) != attention(x)).flatten(3).any(3).any(1)[0]
    assert changed.tolist() == [False, True, False]


def test_no_frame_of_the_whole_depends_on_a_later_one():
    model, clip = build(), sample(9)
    with torch.no_grad():
        latents = model.encode(clip)
        assert relative_error(model.encode(clip[:, :, :5]), latents[:, :, :2]) < 1e-12
        assert relative_error(model.decode(latents[:, :, :2]), model.decode(latents)[:, :, :5]) < 1e-12
