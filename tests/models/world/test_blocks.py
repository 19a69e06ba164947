"""Blocks of world models: diffusers' block, and the way for sampling against the one for training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers.transformer_sana_wm import (
    BidirectionalGDNUCPESinglePathLiteLA,
    SanaVideoMSCamCtrlBlock,
    _prepare_ucpe_ray_transforms,
    _SoftmaxUCPESinglePathLiteLA,
)
from torch import Tensor

from sanakit.models.layers import TextKeysValues
from sanakit.models.world.attention import DeltaAttention, SoftmaxAttention, WorldView
from sanakit.models.world.blocks import WorldBlock
from sanakit.models.world.camera import inverse_pose, ray_frames
from sanakit.models.world.rays import Rays
from tests.models.world.worlds import GRID, TINY, apart, clip_grid, seen

TOKENS = GRID[0] * GRID[1] * GRID[2]
CAMERAS = torch.stack([seen().cameras, seen(start=0.4).cameras])
BLOCKS = {"delta": 0, "softmax": 3}


def block_of(number: int) -> WorldBlock:
    block = WorldBlock(TINY, number)
    for name, parameter in block.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.15)
    return block


def view() -> WorldView:
    grid, into = clip_grid(TINY), ray_frames(CAMERAS, *GRID[1:])
    return WorldView(grid, [GRID[0]], Rays.of(into, inverse_pose(into), grid, TINY.head_dim, True))


def given() -> dict[str, Tensor]:
    return {
        "x": torch.randn(2, TOKENS, TINY.width),
        "modulation": torch.randn(2 * GRID[0], 6 * TINY.width),
        "caption": torch.randn(2, 5, TINY.width),
        "mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        "rays": torch.randn(2, TOKENS, TINY.width),
    }


def trained(block: WorldBlock, some: dict[str, Tensor]) -> Tensor:
    named = {name: some[name] for name in ("x", "modulation", "caption", "mask")}
    return block(**named, view=view(), rays=some["rays"])


def prompts(block: WorldBlock, some: dict[str, Tensor]) -> list[TextKeysValues]:
    return [
        block.cross_attn.prepare(row[real][None], 1)
        for row, real in zip(some["caption"], some["mask"], strict=True)
    ]


@pytest.mark.parametrize("kind", BLOCKS)
@torch.no_grad()
def test_a_block_is_that_of_diffusers(kind, unrounded):
    ours, some = block_of(BLOCKS[kind]), given()
    for layer in (ours.attn.qkv, ours.cross_attn.q_linear, ours.cross_attn.kv_linear):
        for parameter in layer.parameters():
            parameter *= 0.01  # so small that the epsilons of norms are seen
    assert isinstance(ours.attn, DeltaAttention if kind == "delta" else SoftmaxAttention)
    theirs = SanaVideoMSCamCtrlBlock(
        TINY.width,
        TINY.cross_heads,
        attn_cls=BidirectionalGDNUCPESinglePathLiteLA if kind == "delta" else _SoftmaxUCPESinglePathLiteLA,
        mlp_ratio=TINY.mlp_ratio,
        qk_norm=True,
        cross_norm=True,
        ffn_type="GLUMBConvTemp",
        linear_head_dim=TINY.head_dim,
        patch_size=(1, 1, 1),
        cam_attn_compress=1,
        use_chunk_plucker_post_attn=True,
    )
    theirs.load_state_dict(ours.state_dict())
    turns = clip_grid(TINY).rotation.flatten(0, 1)[None, None]
    expected = theirs(
        some["x"],
        some["caption"][:, None],
        some["modulation"].view(2, 1, GRID[0], -1),
        mask=some["mask"].long(),
        THW=GRID,
        rotary_emb=turns,
        camera_conditions=CAMERAS,
        ucpe_ray_transforms=_prepare_ucpe_ray_transforms(TINY.head_dim, CAMERAS, GRID, (1, 1, 1), turns),
        plucker_emb=some["rays"],
    )
    assert apart(trained(ours, some), expected) < 5e-6


@pytest.mark.parametrize("kind", BLOCKS)
@torch.no_grad()
def test_sampling_gives_what_training_sees(kind):
    block, some = block_of(BLOCKS[kind]), given()
    expected = trained(block, some)
    kept = some["x"].clone()
    added = block.along_rays(some["rays"])
    out = block.sample(some["x"], some["modulation"], prompts(block, some), view(), added)
    assert apart(out, expected) < 5e-6
    assert torch.equal(some["x"], kept)


@pytest.mark.parametrize("kind", BLOCKS)
@torch.no_grad()
def test_prompts_that_share_samples_are_those_samples_twice(kind):
    block, some = block_of(BLOCKS[kind]), given()
    some["modulation"] = some["modulation"].repeat(2, 1)
    texts = [*prompts(block, some), *prompts(block, given())]
    added = block.along_rays(some["rays"])
    shared, state = block.extend(some["x"], some["modulation"], texts, view(), added)
    twice, expected = block.extend(some["x"].repeat(2, 1, 1), some["modulation"], texts, view(), added)
    assert apart(shared, twice) < 1e-6
    assert len(state.last) == 4
    kept = (state.attention, expected.attention)
    if kind == "softmax":
        kept = tuple(one[0] for one in kept)
    assert all(apart(*pair) < 1e-6 for pair in zip(*kept, strict=True))


@torch.no_grad()
def test_a_block_without_plucker_coordinates_adds_none():
    block = WorldBlock(replace(TINY, plucker_blocks=1), 1)
    assert block.along_rays(torch.randn(2, TOKENS, TINY.width)) is None
    assert "plucker_proj.weight" not in block.state_dict()
    assert block_of(0).along_rays(None) is None
