"""Cameras as SANA-WM takes them in: poses and focal lengths to numbers, rays and Plücker coordinates.

Axes are OpenCV's: x right, y down, z forward; a pose is camera-to-world, in metres, relative to the first
frame's. Pixels are counted from 0, without half a pixel. All of this is computed in float32 (or float64): in
bfloat16, which autocast would choose, a camera some metres away would be off by centimetres.
Source: UCPE (unified camera positional encoding) with a pinhole camera, as SanaWMTransformer3DModel and
SANA-WM's pipeline in diffusers compute it.
Shapes: B batch, F pixel frames, T latent frames, H W latents of a frame, N = T*H*W tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sanakit.errors import SettingsError

CAMERA_NUMBERS = 20  # of one latent frame: its pose row by row, then fx, fy, cx, cy in latents


class CameraInputs(NamedTuple):
    """The camera path of a clip, or of several alike, as a world model takes it."""

    cameras: Tensor  # T 20
    plucker: Tensor  # 6s T H W, s frames of pixels for each frame of latents


def camera_inputs(
    poses: Tensor, intrinsics: Tensor, *, size: tuple[int, int], compression: tuple[int, int]
) -> CameraInputs:
    """Return what the model takes of a path of F poses.

    poses: F 4 4, camera-to-world in any frame of reference. intrinsics: fx, fy, cx, cy in pixels of the
    clip, 4 or F 4. size: height and width of the clip in pixels. compression: frames and pixels for each
    latent of the autoencoder, 8 and 32 for LTX-2. F: a multiple of the first, plus 1.
    Raises SettingsError for what is not a path of such a clip.
    """
    stride, pixels = compression
    poses, intrinsics = poses.float(), intrinsics.float()
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
        raise SettingsError(f"poses have the shape {tuple(poses.shape)}: pass one 4x4 matrix for each frame.")
    if (len(poses) - 1) % stride:
        nearest = round((len(poses) - 1) / stride) * stride + 1
        raise SettingsError(
            f"The path has {len(poses)} poses; a clip has a multiple of {stride} frames, plus 1: pass "
            f"{nearest} of them."
        )
    if not bool(torch.isfinite(poses).all()):  # of the first, nothing else would tell
        raise SettingsError("poses hold numbers that are not finite: check the path.")
    if intrinsics.shape not in ((4,), (len(poses), 4)):
        raise SettingsError(
            f"intrinsics have the shape {tuple(intrinsics.shape)}: pass fx, fy, cx, cy once, or for each of "
            f"{len(poses)} frames."
        )
    if size[0] % pixels or size[1] % pixels:
        raise SettingsError(f"The clip is of {size[1]}x{size[0]} pixels: use multiples of {pixels}.")
    height, width = size[0] // pixels, size[1] // pixels
    in_latents = (intrinsics / pixels).expand(len(poses), 4)
    poses = relative_poses(poses)
    cameras = torch.cat([poses.flatten(1), in_latents], dim=1)[::stride]
    rays = plucker_rays(poses, in_latents, height, width)  # F 6 H W
    firsts = torch.arange(0, len(poses), stride) - (stride - 1)
    # The first frame of latents has those of the first frames of pixels, though it stands for one alone.
    frames = (firsts.clamp(min=0)[:, None] + torch.arange(stride)).clamp(max=len(poses) - 1)
    return CameraInputs(check_cameras(cameras), rays[frames].flatten(1, 2).transpose(0, 1))


def relative_poses(poses: Tensor) -> Tensor:
    """Return poses (F 4 4) relative to the first, which becomes the identity to the bit."""
    moved = inverse_pose(poses[:1]) @ poses
    moved[0] = torch.eye(4, dtype=poses.dtype, device=poses.device)
    return moved


def inverse_pose(pose: Tensor) -> Tensor:
    """Return the inverse of rotations with translations, ... 4 4."""
    back = pose[..., :3, :3].transpose(-1, -2)
    with torch.autocast(pose.device.type, enabled=False):
        return _pose(back, -(back @ pose[..., :3, 3:])[..., 0])


def plucker_rays(poses: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return the ray of each cell: its direction in the world and the moment origin x direction, F 6 H W.

    poses: F 4 4. intrinsics: F 4, in cells.
    """
    directions = _directions(poses[:, :3, :3], intrinsics, height, width)  # F H W 3
    origins = poses[:, None, None, :3, 3].expand_as(directions)
    moments = torch.linalg.cross(origins, directions)
    return torch.cat([directions, moments], dim=-1).movedim(-1, 1)


def ray_frames(cameras: Tensor, height: int, width: int) -> Tensor:
    """Return the transform from the world to the frame of each token's ray, B N 4 4.

    cameras: B T 20. A ray's z axis is its direction, its x axis lies across the camera's down axis, y is
    across both; its origin is the camera.
    """
    batch, frames = cameras.shape[:2]
    poses, intrinsics = cameras[..., :16].unflatten(-1, (4, 4)), cameras[..., 16:]
    turned = poses[..., :3, :3]
    with torch.autocast(cameras.device.type, enabled=False):
        ahead = _directions(turned.flatten(0, 1), intrinsics.flatten(0, 1), height, width)
        ahead = ahead.unflatten(0, (batch, frames))  # B T H W 3
        down = turned[..., 1][:, :, None, None].expand_as(ahead)
        across = _unit(torch.linalg.cross(down, ahead))
        axes = torch.stack([across, _unit(torch.linalg.cross(ahead, across)), ahead], dim=-2)  # rows
        origin = poses[:, :, None, None, :3, 3:]
        return _pose(axes, -(axes @ origin)[..., 0]).flatten(1, 3)


def check_cameras(cameras: Tensor) -> Tensor:
    """Return cameras (... 20) as they are. Raises SettingsError for what cannot be one."""
    if cameras.shape[-1] != CAMERA_NUMBERS:
        raise SettingsError(
            f"cameras have {cameras.shape[-1]} numbers a frame: pass 16 of a camera-to-world matrix, then "
            "fx, fy, cx, cy in latents."
        )
    if not bool(torch.isfinite(cameras).all()) or not bool((cameras[..., 16:18] > 0).all()):
        raise SettingsError(
            "cameras hold numbers that are not finite, or focal lengths that are not above 0: check the path."
        )
    return cameras


def _directions(turned: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return unit vectors in the world through all cells of frames: F H W 3. turned: F 3 3."""
    places = {"dtype": intrinsics.dtype, "device": intrinsics.device}
    rows, columns = torch.arange(height, **places)[:, None], torch.arange(width, **places)
    fx, fy, cx, cy = (part[:, None, None] for part in intrinsics.unbind(-1))
    across = ((columns - cx) / fx).expand(-1, height, width)
    down = ((rows - cy) / fy).expand(-1, height, width)
    local = torch.stack([across, down, torch.ones_like(across)], dim=-1)
    return _unit(torch.einsum("fij,fhwj->fhwi", turned, local))


def _pose(axes: Tensor, origin: Tensor) -> Tensor:
    """Return 4x4 matrices of ... 3 3 and ... 3."""
    upper = torch.cat([axes, origin[..., None]], dim=-1)
    last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*upper.shape[:-2], 1, 4)
    return torch.cat([upper, last], dim=-2)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1, eps=1e-6)
