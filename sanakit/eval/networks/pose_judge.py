"""A judge of camera motion: from two frames, how the camera turned and moved between them.

It is small and learns from true clips with cameras in a few minutes on a CPU. Its answers on drawn clips mean
as much as its own error on true ones that it has not learned from, which is to be told beside them.
It compares features of every cell of one frame with those of cells around it in the other, as networks of
optical flow do (Dosovitskiy et al. 2015, arXiv:1504.06852), so that it learns motion and no scenes. Rotations
are two vectors made orthogonal (Zhou et al. 2019, arXiv:1812.07035).
Shapes: B pairs, F frames, S the side of the images that it sees, N cells of a frame, O offsets of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import DataError
from sanakit.images.image import from_levels
from sanakit.models.world.camera import relative_poses

SIDE, CELLS, REACH = 64, 16, 7  # pixels; cells a side; cells that a motion is looked for in each direction
WIDTH = 32  # of features
STEPS, BATCH, RATE = 1500, 32, 1e-3
VERSION = 1  # raised when a judge learns otherwise from the same clips

Frames = np.ndarray  # F H W 3, uint8


@dataclass(frozen=True, slots=True)
class PoseErrors:
    """Mean errors over the frames of a clip after its first."""

    degrees: float  # between the rotation found and the true one
    distance: float  # between the translations, in usual lengths of one in the clips that the judge learned


class PoseJudge(nn.Module):
    """Two frames to the pose of the second relative to the first. scale: a usual translation's length."""

    scale: Tensor
    around: Tensor  # N O: the number of the cell at each offset, N where that is outside

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        offsets = (2 * REACH + 1) ** 2
        self.look = nn.Sequential(
            *_layer(3, WIDTH), *_layer(WIDTH, WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )
        self.weigh = nn.Sequential(
            nn.Conv2d(offsets, 64, 1), nn.SiLU(), *_layer(64, 64), *_layer(64, 64), nn.Flatten()
        )
        self.tell = nn.Sequential(nn.Linear(CELLS * CELLS // 16 * 64, 128), nn.SiLU(), nn.Linear(128, 9))
        self.register_buffer("around", _around(), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32, device="cpu"))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return rotations, B 3 3, and translations, B 3. first, second: B 3 S S in [-1, 1]."""
        one, other = (F.normalize(self.look(image).flatten(2), dim=1) for image in (first, second))  # B D N
        alike = F.pad(one.transpose(1, 2) @ other, (0, 1))  # B N N+1; the last stands for outside
        near = alike.gather(2, self.around.expand(len(first), -1, -1))  # B N O
        likely = (8 * near).softmax(2).transpose(1, 2).unflatten(2, (CELLS, CELLS))
        numbers = self.tell(self.weigh(likely))
        identity = torch.eye(3, dtype=numbers.dtype, device=numbers.device)[:2]
        x, y = (identity + numbers[:, :6].view(-1, 2, 3)).unbind(1)
        x = F.normalize(x, dim=1)
        y = F.normalize(y - (x * y).sum(1, keepdim=True) * x, dim=1)
        rotation = torch.stack([x, y, torch.linalg.cross(x, y)], dim=2)
        return rotation, self.scale * numbers[:, 6:]

    @torch.no_grad()
    def errors(self, frames: Frames, poses: Tensor) -> PoseErrors:
        """Return how far what it sees in a clip is from the poses of its frames, F 4 4 camera-to-world."""
        shown, wanted = small(frames), relative_poses(poses.float())[1:]
        device = self.scale.device
        rotation, moved = self(shown[:1].expand(len(wanted), -1, -1, -1).to(device), shown[1:].to(device))
        degrees = rotation_degrees(rotation.cpu(), wanted[:, :3, :3])
        off = (moved.cpu() - wanted[:, :3, 3]).norm(dim=1) / self.scale.cpu()
        return PoseErrors(float(degrees.mean()), float(off.mean()))


def train_pose_judge(
    clips: Sequence[tuple[Frames, Tensor]],
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PoseJudge:
    """Return a judge that learned from pairs of frames of true clips.

    clips: frames and poses, F 4 4 camera-to-world, of each; at least two frames. seed: of its first weights
    and the order of pairs. progress: is told steps done and in all. Raises DataError for fewer frames.
    """
    if not clips or any(len(frames) < 2 for frames, _ in clips):
        raise DataError("The pose judge learns from pairs of frames: give it clips of two frames or more.")
    random = torch.Generator("cpu").manual_seed(seed)
    shown = [small(frames) for frames, _ in clips]
    poses = [given.float() for _, given in clips]
    far = torch.cat([relative_poses(given)[1:, :3, 3].norm(dim=1) for given in poses]).mean()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = PoseJudge(max(float(far), 1e-6)).to(device or torch.device("cpu"))
    learner = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(learner, RATE, total_steps=max(2, steps))
    for step in range(steps):
        pairs = [_pair(shown, poses, random) for _ in range(BATCH)]
        first, second, wanted = (
            torch.stack(part).to(judge.scale.device) for part in zip(*pairs, strict=True)
        )
        rotation, moved = judge(first, second)
        turned = (rotation - wanted[:, :3, :3]).square().sum((1, 2)).mean()
        off = ((moved - wanted[:, :3, 3]) / judge.scale).square().sum(1)
        loss = turned + F.smooth_l1_loss(off, torch.zeros_like(off))
        learner.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        learner.step()
        schedule.step()
        progress(step + 1, steps)
    return judge.eval()


def rotation_degrees(one: Tensor, other: Tensor) -> Tensor:
    """Return the angle in degrees between rotations, B 3 3 each: B."""
    trace = (one.transpose(1, 2) @ other).diagonal(dim1=1, dim2=2).sum(1)
    return ((trace - 1) / 2).clamp(-1, 1).acos().rad2deg()


def small(frames: Frames) -> Tensor:
    """Return frames as the judge sees them, F 3 S S in [-1, 1]."""
    images = from_levels(torch.from_numpy(np.ascontiguousarray(frames))).movedim(-1, 1)
    return F.interpolate(images, size=(SIDE, SIDE), mode="area")


def _layer(before: int, after: int) -> list[nn.Module]:
    """Return layers to half the side."""
    return [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]


def _around() -> Tensor:
    """Return which cell lies at each offset of each cell, N O; N where none does."""
    places = torch.arange(CELLS, device="cpu")
    offsets = torch.arange(-REACH, REACH + 1, device="cpu")
    moved = places[:, None] + offsets  # cell, offset: along one axis
    inside = (moved >= 0) & (moved < CELLS)
    numbers = moved[:, None, :, None] * CELLS + moved[None, :, None, :]
    kept = inside[:, None, :, None] & inside[None, :, None, :]
    return torch.where(kept, numbers, CELLS * CELLS).flatten(2).flatten(0, 1)


def _pair(
    shown: Sequence[Tensor], poses: Sequence[Tensor], random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return two frames of a clip, half of the time its first one and another, and the pose between them."""
    clip, begins = (int(torch.randint(most, (), generator=random)) for most in (len(shown), 2))
    count = len(shown[clip])
    first = 0 if begins else int(torch.randint(count, (), generator=random))
    second = int(torch.randint(count, (), generator=random))
    pose = relative_poses(poses[clip][[first, second]])[1]
    return shown[clip][first], shown[clip][second], pose
