"""The blocks of the LTX-2 VAE: what a window holds, and each block against its twin of diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders import autoencoder_kl_ltx2 as theirs
from torch import Tensor, nn

from sanakit.models.video.ltx2_blocks import (
    ClipResBlock,
    FrameCache,
    FrameConv,
    StepDown,
    StepUp,
    depth_to_space,
    patch,
    silu_of_norm,
    space_to_depth,
    unpatch,
)
from tests.models.video.ltx2_pair import EXACT
from tests.models.video.wan_pair import relative_error

STEPS = {"spatial": (1, 2, 2), "temporal": (2, 1, 1), "spatiotemporal": (2, 2, 2)}


def frames(count: int, width: int = 8) -> Tensor:
    return torch.randn(2, count, 4, 6, width, dtype=torch.float64)


def run(block: nn.Module, x: Tensor, causal: bool) -> Tensor:
    with torch.no_grad():
        return block(x, FrameCache(causal=causal, final=True)).permute(0, 4, 1, 2, 3)


def numbers(window: Tensor) -> list[int]:
    return window[0, :, 0, 0, 0].int().tolist()


def clip_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1, 1)


def test_windows_repeat_the_first_frame_and_the_last_and_no_frame_is_given_twice():
    layer = nn.Identity()
    causal, seeing = FrameCache(causal=True), FrameCache(causal=False)
    assert numbers(causal.window(layer, clip_of(1, 2))) == [1, 1, 1, 2]
    assert numbers(causal.window(layer, clip_of(3))) == [1, 2, 3]
    assert numbers(causal.window(layer, clip_of())) == []
    assert numbers(seeing.window(layer, clip_of())) == []
    assert numbers(seeing.window(layer, clip_of(1))) == []  # its neighbour has not come
    assert numbers(seeing.window(layer, clip_of(2, 3))) == [1, 1, 2, 3]
    seeing.final = True
    assert numbers(seeing.window(layer, clip_of())) == [2, 3, 3]


def test_windows_come_in_multiples_of_a_step_and_tell_their_inner_frames():
    layer, seeing = nn.Identity(), FrameCache(causal=False)
    window = seeing.window(layer, clip_of(1, 2, 3, 4), 2)
    assert numbers(window) == [1, 1, 2, 3]
    assert numbers(seeing.inner(window)) == [1, 2]
    seeing.final = True
    window = seeing.window(layer, clip_of(5, 6), 2)
    assert numbers(seeing.inner(window)) == [3, 4, 5, 6]
    assert numbers(seeing.inner(clip_of())) == []


def test_frames_wait_for_the_results_that_they_are_added_to():
    layer, cache = nn.Identity(), FrameCache(causal=False)
    assert numbers(cache.wait(layer, clip_of(1, 2), 0)) == []
    assert numbers(cache.wait(layer, clip_of(3), 2)) == [1, 2]
    assert numbers(cache.wait(layer, clip_of(), 1)) == [3]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_a_convolution_and_a_residual_block_match_diffusers(padding: str, causal: bool):
    twin = theirs.LTX2VideoResnetBlock3d(8, spatial_padding_mode=padding).double()
    block = ClipResBlock(8, padding).double()
    block.load_state_dict(twin.state_dict())
    x = frames(3)
    with torch.no_grad():
        wanted = twin(x.permute(0, 4, 1, 2, 3), causal=causal)
        conv = twin.conv1(x.permute(0, 4, 1, 2, 3), causal=causal)
        window = FrameCache(causal=causal, final=True).window(block.conv1, x)
        assert relative_error(block.conv1(window).permute(0, 4, 1, 2, 3), conv) < EXACT
    assert relative_error(run(block, x, causal), wanted) < EXACT


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", STEPS)
def test_a_step_down_matches_diffusers(kind: str, causal: bool):
    twin = theirs.LTX2VideoDownsampler3d(8, 16, stride=STEPS[kind]).double()
    block = StepDown(8, 16, STEPS[kind], "zeros").double()
    block.load_state_dict(twin.state_dict())
    x = frames(5)
    with torch.no_grad():
        wanted = twin(x.permute(0, 4, 1, 2, 3), causal=causal)
    assert relative_error(run(block, x, causal), wanted) < EXACT


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("kind", "factor"), [("spatiotemporal", 2), ("temporal", 2), ("spatial", 1)])
def test_a_step_up_matches_diffusers(kind: str, factor: int, residual: bool, causal: bool):
    given = {"stride": STEPS[kind], "residual": residual, "upscale_factor": factor}
    twin = theirs.LTX2VideoUpsampler3d(16, **given).double()
    block = StepUp(16, STEPS[kind], factor, "zeros", residual=residual).double()
    block.load_state_dict(twin.state_dict())
    x = frames(3, 16)
    with torch.no_grad():
        wanted = twin(x.permute(0, 4, 1, 2, 3), causal=causal)
    assert relative_error(run(block, x, causal), wanted) < EXACT


def test_the_norm_keeps_its_epsilon_and_its_input():
    x = torch.randn(3, 5, 7, dtype=torch.float64) * 1e-4  # small enough for the epsilon to matter
    before = x.clone()
    wanted = nn.functional.silu(theirs.PerChannelRMSNorm(channel_dim=-1)(x))
    assert relative_error(silu_of_norm(x), wanted) < EXACT
    narrow = silu_of_norm(x.float())
    assert relative_error(narrow, wanted.float()) < 1e-6
    assert torch.equal(x, before)


def test_places_and_channels_are_told_apart_and_put_back():
    x = torch.arange(2 * 4 * 4 * 6 * 3.0).view(2, 4, 4, 6, 3)
    deep = space_to_depth(x, (2, 2, 2))
    assert deep.shape == (2, 2, 2, 3, 24)
    assert deep[1, 1, 0, 2, 8 + 4 + 1] == x[1, 3, 0, 5, 1]  # channel, later, upper, right
    assert torch.equal(depth_to_space(deep, (2, 2, 2)), x)
    patched = patch(x, 2)
    assert patched[1, 3, 1, 2, 4 + 2 + 0] == x[1, 3, 2, 5, 1]  # channel 1, right column, upper row
    assert torch.equal(unpatch(patched, 2), x)


def test_weights_in_16_bits_compute_as_their_float32_copy():
    conv = FrameConv(8, 8, "reflect")
    conv.conv.weight.data = conv.conv.weight.data.bfloat16()
    x = frames(3).float()
    with torch.no_grad():
        got = conv(x)
        conv.conv.weight.data = conv.conv.weight.data.float()
        torch.testing.assert_close(got, conv(x))


def test_what_is_kept_does_not_hold_the_chunk_in_memory():
    layer, cache = nn.Identity(), FrameCache(causal=True)
    cache.window(layer, frames(20))
    cache.wait(layer, frames(20), 19)
    kept = (cache._neighbours[layer], cache._waiting[layer])
    assert [tensor.untyped_storage().nbytes() // tensor[:, :1].nbytes for tensor in kept] == [2, 1]
