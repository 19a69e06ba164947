"""What rays do to heads: relative poses alone count, and diffusers' transforms of the same numbers."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_sana_wm import (
    _apply_ucpe_transform,
    _downscale_to_reference_rms,
    _invert_SE3,
    _slice_rope_for_cam,
)
from torch import Tensor

from sanakit.models.world.camera import inverse_pose, ray_frames
from sanakit.models.world.rays import Rays, camera_rotation, for_batch, growth
from tests.models.world.worlds import GRID, HEADS, TINY, apart, clip_grid, intrinsics, poses, turn

TOKENS = GRID[0] * GRID[1] * GRID[2]


def cameras(path: Tensor) -> Tensor:
    camera = (intrinsics() / 32).double().expand(len(path), 4)
    return torch.cat([path.flatten(1), camera], dim=1)[None]


def rays(path: Tensor, config=TINY, capped: bool = True, dtype=torch.float64) -> Rays:
    into = ray_frames(cameras(path).to(dtype), *GRID[1:])
    turns = torch.complex128 if dtype == torch.float64 else torch.complex64
    return Rays.of(into, inverse_pose(into), clip_grid(config, dtype=turns), config.head_dim, capped)


def heads(config=TINY, dtype=torch.float64) -> Tensor:
    return torch.randn(1, TOKENS, 2, config.head_dim, dtype=torch.float64).to(dtype)


def test_scores_and_results_depend_on_relative_poses_alone():
    """A turned and shifted world changes queries, keys and values, but not what comes back."""
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3], move[:3, 3] = turn(0.7, 0.2, -1.0), torch.tensor([4.0, 1.0, -3.0], dtype=torch.float64)
    query, key, value = heads(), heads(), heads()

    def attended(seen: Rays) -> tuple[Tensor, Tensor]:
        scores = torch.einsum("bnhd,bmhd->bhnm", seen.query(query), seen.key(key))
        return scores, seen.result(torch.einsum("bhnm,bmhd->bnhd", scores, seen.key(value)))

    here, there = rays(poses(GRID[0]), capped=False), rays(move @ poses(GRID[0]), capped=False)
    assert apart(there.key(key), here.key(key)) > 0.1
    for one, other in zip(attended(here), attended(there), strict=True):
        assert apart(one, other) < 1e-11


def test_what_goes_in_as_a_value_comes_back():
    seen, x = rays(poses(GRID[0]), capped=False), heads()
    assert apart(seen.result(seen.key(x)), x) < 1e-12


@pytest.mark.parametrize("name", HEADS)
def test_transforms_are_those_of_diffusers(name):
    config = HEADS[name]
    seen, x = rays(poses(GRID[0]), config, dtype=torch.float32), heads(config, torch.float32)
    turns = clip_grid(config).rotation.flatten(0, 1)[None, None]
    sliced = _slice_rope_for_cam(turns, config.head_dim, config.head_dim // 2)
    assert torch.equal(camera_rotation(turns[0, 0], config.head_dim), sliced[0, 0])

    def theirs(matrix: Tensor, cut: bool = True, inverse: bool = False) -> Tensor:
        y = _apply_ucpe_transform(x.transpose(1, 2), matrix, sliced, inverse_rope=inverse)
        if cut:
            parts = (part.transpose(-1, -2) for part in (x.transpose(1, 2), y))
            y = _downscale_to_reference_rms(*parts).transpose(-1, -2)
        return y.transpose(1, 2)

    assert apart(seen.query(x), theirs(seen.into.transpose(-1, -2))) < 2e-6
    assert apart(seen.key(x), theirs(_invert_SE3(seen.into))) < 2e-6
    assert apart(seen.result(x), theirs(seen.into, cut=False, inverse=True)) < 2e-6


def test_capped_vectors_never_grow_and_turned_ones_keep_their_length():
    x, far = heads(), rays(poses(GRID[0], reach=9.0))
    for after in (far.query(x), far.key(x)):
        assert (after.norm(dim=-1) <= x.norm(dim=-1) + 1e-5).all()
    assert (rays(poses(GRID[0], reach=9.0), capped=False).key(x).norm(dim=-1) > 1.5 * x.norm(dim=-1)).any()
    still = rays(poses(GRID[0], reach=0.0))
    assert apart(still.key(x).norm(dim=-1), x.norm(dim=-1)) < 1e-6


def test_growth_is_the_mean_of_squared_ratios_of_a_frame():
    before, after = (torch.randn(2, 3, 5, 4, 8, dtype=torch.float64) for _ in range(2))
    found = growth(before, after)
    assert found.shape == (2, 3, 4)
    expected = sum(
        (after[1, 2, s, 3] @ after[1, 2, s, 3]) / (before[1, 2, s, 3] @ before[1, 2, s, 3]) for s in range(5)
    )
    assert abs(found[1, 2, 3] - expected / 5) < 1e-12
    assert torch.isfinite(growth(0 * before, after)).all()


def test_rays_of_a_batch_are_repeated_and_those_of_one_path_are_not():
    one = rays(poses(GRID[0]))
    assert one.for_batch(4).into is one.into
    two = for_batch(torch.arange(2.0)[:, None], 4)
    assert two[:, 0].tolist() == [0, 1, 0, 1]
