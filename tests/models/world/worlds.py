"""Tiny world models of random numbers, the same in diffusers, paths of cameras, and inputs for both."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from diffusers import SanaWMTransformer3DModel
from torch import Tensor

from sanakit.models.video.sana_video_blocks import ClipGrid
from sanakit.models.world.camera import CameraInputs, camera_inputs
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM
from sanakit.ops.rotary_linear_attention import rotations
from sanakit.weights.layouts.sana_wm import diffusers_name, write_config

TINY = SanaWMConfig(
    depth=4, width=64, cross_heads=2, head_dim=32, text_width=16, latent_channels=8, rounded=False
)
HEADS = {  # widths of heads that are taken as they are, and that published softmax attention pads
    "32": TINY,
    "48": replace(TINY, width=96, head_dim=48, cross_heads=4),
    "112": replace(TINY, width=112, head_dim=112, cross_heads=1),
}
GRID = (4, 2, 3)  # frames, height and width of latents
STRIDE, PIXELS = 8, 32


def randomised(config: SanaWMConfig, std: float = 0.15) -> SanaWM:
    model = SanaWM(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=std)
    return model.eval()


def published(model: SanaWM) -> SanaWMTransformer3DModel:
    """diffusers' model with the same weights."""
    theirs = SanaWMTransformer3DModel.from_config(
        {name: value for name, value in write_config(model.config).items() if name != "sanakit"}
    )
    theirs.load_state_dict({diffusers_name(name): tensor for name, tensor in model.state_dict().items()})
    return theirs.eval()


def run_published(theirs, latents, t, text, mask, cameras=None, plucker=None) -> Tensor:
    """As diffusers' pipeline calls it."""
    t = t[:, None].expand(-1, latents.shape[2]) if t.ndim == 1 else t
    return theirs(
        latents,
        1000 * t[:, None],
        text[:, None],
        mask.long(),
        camera_conditions=cameras,
        chunk_plucker=plucker,
    ).sample


def turn(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Tensor:
    """A rotation, angles in radians."""
    y, x, z = (
        torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64).tolist() for a in (yaw, pitch, roll)
    )
    about_y = torch.tensor([[y[0], 0, y[1]], [0, 1, 0], [-y[1], 0, y[0]]], dtype=torch.float64)
    about_x = torch.tensor([[1, 0, 0], [0, x[0], -x[1]], [0, x[1], x[0]]], dtype=torch.float64)
    about_z = torch.tensor([[z[0], -z[1], 0], [z[1], z[0], 0], [0, 0, 1]], dtype=torch.float64)
    return about_y @ about_x @ about_z


def poses(frames: int, start: float = 0.0, reach: float = 3.0) -> Tensor:
    """A path that turns, nods and goes some units far: F 4 4, camera-to-world, float64."""
    path = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    for number in range(frames):
        s = number / max(1, frames - 1)
        path[number, :3, :3] = turn(start + 0.9 * s, 0.3 * s, 0.1 * s)
        path[number, :3, 3] = reach * torch.tensor([s, start + 0.2 * s * s, -1.3 * s], dtype=torch.float64)
    return path


def intrinsics(grid: tuple[int, int, int] = GRID) -> Tensor:
    """fx, fy, cx, cy in pixels, of an image that was cropped: nothing is centred or square."""
    _, height, width = grid
    return torch.tensor([41.0 * width, 47.0 * height, 15.0 * width, 17.0 * height])


def seen(grid: tuple[int, int, int] = GRID, start: float = 0.0) -> CameraInputs:
    path = poses((grid[0] - 1) * STRIDE + 1, start)
    size = (grid[1] * PIXELS, grid[2] * PIXELS)
    return camera_inputs(path, intrinsics(grid), size=size, compression=(STRIDE, PIXELS))


def inputs(config: SanaWMConfig, batch: int = 2, grid=GRID, tokens: int = 5) -> dict[str, Tensor]:
    """A batch with a path for each clip and a clean frame 0; text is padded, with garbage behind the mask."""
    lengths = torch.tensor([tokens, *range(2, batch + 1)])[:batch]
    paths = [seen(grid, 0.2 * number) for number in range(batch)]
    t = torch.linspace(0.9, 0.2, batch)[:, None].repeat(1, grid[0])
    t[:, 0] = 0
    return {
        "latents": torch.randn(batch, config.latent_channels, *grid),
        "t": t,
        "text": torch.randn(batch, tokens, config.text_width),
        "mask": torch.arange(tokens) < lengths[:, None],
        "cameras": torch.stack([path.cameras for path in paths]),
        "plucker": torch.stack([path.plucker for path in paths]),
    }


def clip_grid(config: SanaWMConfig, grid=GRID, dtype: torch.dtype = torch.complex64) -> ClipGrid:
    frames, height, width = grid
    return ClipGrid(height, width, rotations(range(frames), height, width, config.head_dim).to(dtype))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
