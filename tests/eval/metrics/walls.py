"""What a camera sees of a painted wall, drawn without any model: the true frames of poses, T H W 3."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.pipelines.world.actions import STRAFING, action_poses

SIDE, FOCAL, DISTANCE = 64, 60.0, 3.0  # pixels; units to the wall


def wall(seed: int = 0) -> Tensor:
    """A painting of soft spots, 3 H W in [0, 1], 24 units wide."""
    coarse = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(480, 480), mode="bicubic", align_corners=True)[0].clamp(0, 1)


def seen(poses: Tensor, seed: int = 0) -> np.ndarray:
    """Frames of the wall z = 3 from camera-to-world poses."""
    painting, frames = wall(seed)[None].double(), []
    places = torch.arange(SIDE, dtype=torch.float64) - (SIDE - 1) / 2
    rays = torch.stack(
        [*torch.meshgrid(places / FOCAL, places / FOCAL, indexing="xy"), torch.ones(SIDE, SIDE)], -1
    )
    for pose in poses:
        ahead, origin = rays.double() @ pose[:3, :3].T, pose[:3, 3]
        reach = (DISTANCE - origin[2]) / ahead[..., 2:]
        points = (origin + reach * ahead)[..., :2] / 12  # the painting spans -12 to 12
        image = F.grid_sample(painting, points[None], padding_mode="reflection", align_corners=True)[0]
        frames.append((255 * image).round().byte().movedim(0, -1).numpy())
    return np.stack(frames)


def truth(path: str | Tensor, steered: bool = True) -> np.ndarray:
    """A `Draw` that obeys: keys as diffusers has them; without cameras it stands still."""
    poses = action_poses(path, STRAFING) if isinstance(path, str) else path
    return seen(poses if steered else poses[:1].expand(len(poses), 4, 4))


def backwards(path: str | Tensor, steered: bool = True) -> np.ndarray:
    """A `Draw` that turns left for right: the mirror of the path, not of the wall."""
    poses = (action_poses(path, STRAFING) if isinstance(path, str) else path).clone()
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    return seen(mirror @ poses @ mirror)
