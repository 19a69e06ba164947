"""Both kinds of attention against diffusers' classes, and the convolution of keys against its sums."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers import transformer_sana_wm
from diffusers.models.transformers.transformer_sana_wm import (
    BidirectionalGDNUCPESinglePathLiteLA,
    SanaWMTemporalShortConvolution,
    _prepare_ucpe_ray_transforms,
    _SoftmaxUCPESinglePathLiteLA,
)
from torch import Tensor

from sanakit.models.world.attention import (
    DeltaAttention,
    KeyConvolution,
    SoftmaxAttention,
    WorldAttention,
    WorldView,
)
from sanakit.models.world.camera import inverse_pose, ray_frames
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.rays import Rays
from tests.models.world.worlds import GRID, HEADS, TINY, apart, clip_grid, seen

KINDS = {"delta": DeltaAttention, "softmax": SoftmaxAttention}
THEIRS = {"delta": BidirectionalGDNUCPESinglePathLiteLA, "softmax": _SoftmaxUCPESinglePathLiteLA}
TOKENS = GRID[0] * GRID[1] * GRID[2]
CAMERAS = torch.stack([seen().cameras, seen(start=0.4).cameras])


def pair(kind: str, config: SanaWMConfig) -> tuple[WorldAttention, torch.nn.Module]:
    ours, heads = KINDS[kind](config), config.width // config.head_dim
    for name, parameter in ours.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.15)
    theirs = THEIRS[kind](
        config.width,
        config.width,
        heads=heads,
        cam_dim=config.width,
        cam_heads=heads,
        patch_size=(1, 1, 1),
        qk_norm=True,
        eps=1e-8,
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def run(ours: WorldAttention, x: Tensor, cameras: Tensor | None) -> Tensor:
    grid, rays = clip_grid(ours.config), None
    if cameras is not None:
        into = ray_frames(cameras, *GRID[1:])
        rays = Rays.of(into, inverse_pose(into), grid, ours.config.head_dim, ours.config.capped)
    return ours(x, WorldView(grid, [GRID[0]], rays), None)[0]


def run_theirs(theirs, config: SanaWMConfig, x: Tensor, cameras: Tensor | None) -> Tensor:
    turns = clip_grid(config).rotation.flatten(0, 1)[None, None]
    rays = None
    if cameras is not None:
        rays = _prepare_ucpe_ray_transforms(config.head_dim, cameras, GRID, (1, 1, 1), turns)
    return theirs(x, HW=GRID, rotary_emb=turns, camera_conditions=cameras, ucpe_ray_transforms=rays)


@pytest.mark.parametrize("cameras", [None, CAMERAS], ids=["no cameras", "cameras"])
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_gives_what_diffusers_gives(kind, name, cameras, unrounded):
    ours, theirs = pair(kind, HEADS[name])
    x = torch.randn(2, TOKENS, HEADS[name].width)
    assert apart(run(ours, x, cameras), run_theirs(theirs, HEADS[name], x, cameras)) < 2e-6


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_the_cap_it_gives_what_the_authors_scripts_give(kind, monkeypatch, unrounded):
    """Their scripts differ from diffusers in this step alone; far cameras make it matter."""
    monkeypatch.setattr(transformer_sana_wm, "_downscale_to_reference_rms", lambda before, after: after)
    config = replace(TINY, capped=False)
    ours, theirs = pair(kind, config)
    x = torch.randn(2, TOKENS, config.width)
    free = run(ours, x, CAMERAS)
    assert apart(free, run_theirs(theirs, config, x, CAMERAS)) < 2e-6
    ours.config = TINY
    assert apart(run(ours, x, CAMERAS), free) > 1e-2


@pytest.mark.parametrize(("name", "share"), [("32", 0.8), ("48", 0.05), ("112", 0.05)])
@torch.no_grad()
def test_rounded_inputs_of_softmax_attention_are_those_of_diffusers(name, share):
    """Both round to bfloat16: a number that lies between two roundings may go either way, by 0.4 %.

    share: of the difference to exact inputs. Heads that diffusers does not pad have strides there with which
    torch takes a kernel that rounds more.
    """
    config = replace(HEADS[name], rounded=True)
    ours, theirs = pair("softmax", config)
    x = torch.randn(2, TOKENS, config.width)
    found, expected = run(ours, x, CAMERAS), run_theirs(theirs, config, x, CAMERAS)
    assert apart(found, expected) < 2e-3
    ours.config = HEADS[name]
    exact = run(ours, x, CAMERAS)
    assert (found - expected).abs().mean() < share * (exact - expected).abs().mean()


@pytest.mark.parametrize("variant", ["chunk_causal", "streaming"])
@torch.no_grad()
def test_weights_for_chunks_have_the_scale_of_padded_heads_in_both_branches(variant):
    """Published code for chunks pads heads of 48 channels to 128; sqrt(48 / 128) as a factor on queries."""
    config = HEADS["48"]
    ours, _ = pair("softmax", config)
    x = torch.randn(2, TOKENS, config.width)
    plain = run(ours, x, None)
    ours.config = replace(config, variant=variant)
    padded = run(ours, x, None)
    assert apart(padded, plain) > 1e-3
    ours.config = config
    ours.q_norm.weight *= (48 / 128) ** 0.5
    assert apart(run(ours, x, None), padded) < 1e-6
    whole, _ = pair("softmax", replace(TINY, variant=variant))
    narrow = run(whole, x[..., :64], CAMERAS)
    whole.config = TINY
    assert torch.equal(run(whole, x[..., :64], CAMERAS), narrow)  # 32 channels are not padded


@torch.no_grad()
def test_a_convolution_of_keys_is_that_of_diffusers():
    ours, theirs = KeyConvolution(6, 4), SanaWMTemporalShortConvolution(6, 4)
    torch.nn.init.normal_(ours.weight)
    theirs.load_state_dict(ours.state_dict())
    for frames in (1, 2, 7):
        x = torch.randn(2, frames, 5, 6)
        out, _ = ours(x, [frames], None)
        assert apart(out.flatten(1, 2), theirs(x.flatten(1, 2), frames)) < 1e-6


@pytest.mark.parametrize("chunks", [[7], [1] * 7, [4, 3], [1, 5, 1]], ids=str)
@torch.no_grad()
def test_keys_see_earlier_frames_of_all_chunks_and_later_ones_of_their_own(chunks):
    conv = KeyConvolution(6, 4).double()
    torch.nn.init.normal_(conv.weight)
    x, before = torch.randn(2, 7, 5, 6).double(), torch.randn(2, 3, 5, 6).double()
    chunk = torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor(chunks)).tolist()
    longer, expected = torch.cat([before, x], dim=1), torch.zeros_like(x)
    for t in range(7):
        for s in range(-3, 7):
            reach = abs(t - s)
            if reach < 4 and (s <= t or chunk[s] == chunk[t]):
                expected[:, t] += conv.weight[:, 0, 3 - reach] * longer[:, s + 3]
    out, latest = conv(x, chunks, before)
    assert apart(out, expected) < 1e-14
    assert torch.equal(latest, x[:, -3:])


@torch.no_grad()
def test_short_chunks_hand_on_all_the_frames_that_the_next_one_sees():
    conv = KeyConvolution(6, 4).double()
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 6, 5, 6).double()
    for sizes in ([1] * 6, [2, 2, 2], [5, 1]):
        before, outs = None, []
        for part in x.split(sizes, dim=1):
            out, before = conv(part, [part.shape[1]], before)
            assert before.untyped_storage().nbytes() == before.nbytes  # nothing larger lies behind it
            outs.append(out)
        assert apart(torch.cat(outs, dim=1), conv(x, sizes, None)[0]) < 1e-14


@torch.no_grad()
def test_first_gates_keep_and_a_first_camera_branch_is_silent():
    ours, _ = pair("delta", TINY)
    ours.init_gates()
    x = torch.randn(2, TOKENS, TINY.width)
    assert isinstance(ours, DeltaAttention)
    beta, decay = ours._gates(x.unflatten(1, (GRID[0], -1)))
    assert (beta - 0.9933).abs().max() < 1e-4
    assert (decay - 0.9933).abs().max() < 1e-4
    assert (torch.nn.functional.silu(ours.output_gate(x)) - 1).abs().max() < 1e-5
    ours.out_proj_cam.bias.zero_()
    assert torch.equal(run(ours, x, CAMERAS), run(ours, x, None))
    assert torch.equal(ours.v_proj_cam.weight, ours.qkv.weight[2 * TINY.width :])


def test_gates_of_softmax_attention_have_no_effect():
    ours, _ = pair("softmax", TINY)
    x = torch.randn(2, TOKENS, TINY.width)
    out = run(ours, x, CAMERAS)
    out.sum().backward()
    idle = {name for name, parameter in ours.named_parameters() if parameter.grad is None}
    assert idle == {
        *("A_log", "dt_bias", "recall_gate"),
        *(f"{gate}_proj.{part}" for gate in ("beta", "gate") for part in ("weight", "bias")),
    }


@torch.no_grad()
def test_geometry_stays_in_float32_in_a_model_of_16_bits():
    """A camera 30 units away, in bfloat16, would be off by more than the difference seen here."""
    ours, _ = pair("delta", TINY)
    far = CAMERAS.clone()
    far[..., 3] += 30
    x = torch.randn(2, TOKENS, TINY.width).bfloat16()
    ours.bfloat16()
    half = run(ours, x, far)
    assert half.dtype == torch.bfloat16
    assert apart(half.float(), run(ours.float(), x.float(), far)) < 2e-2
