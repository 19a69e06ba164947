"""Heads as a ray sees them: the unified camera positional encoding (UCPE) of SANA-WM's camera branch.

The first half of a head's channels is read as points with four coordinates, which the pose of a token's ray
transforms; the second half turns with the token's frame, row and column. With P the transform from the world
to a ray: q' = P^T q, k' = P^-1 k, v' = P^-1 v, and the result o' comes back as P o'. So q'.k' depends on the
pose of one ray relative to the other alone, and a path may begin anywhere.
Far cameras make long vectors: each is cut back to its length before, unless `capped` is false. The authors'
own inference scripts do not cut; SanaWMTransformer3DModel in diffusers and sglang do.
Shapes: B batch, N tokens, h heads, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sanakit.models.video.sana_video_blocks import ClipGrid
from sanakit.ops.rotary_linear_attention import axis_channels, rotated

_EPS = 1e-6  # beside mean squares of keys that are about as small: not negligible


@dataclass(frozen=True, slots=True)
class Rays:
    """The rays of all tokens of the frames at hand."""

    into: Tensor  # from the world to the ray, P: B N 4 4
    back: Tensor  # its inverse
    rotation: Tensor  # N d/4, complex
    capped: bool = True

    @classmethod
    def of(cls, into: Tensor, back: Tensor, grid: ClipGrid, head_dim: int, capped: bool) -> Rays:
        """Return the rays of a grid's tokens."""
        return cls(into, back, camera_rotation(grid.rotation.flatten(0, 1), head_dim), capped)

    def for_batch(self, batch: int) -> Rays:
        """Return the rays of so many clips, a multiple of those that they are of."""
        return replace(self, into=for_batch(self.into, batch), back=for_batch(self.back, batch))

    def query(self, x: Tensor) -> Tensor:
        """B N h d -> B N h d."""
        return self._cut(x, _turned(x, self.into.transpose(-1, -2), self.rotation))

    def key(self, x: Tensor) -> Tensor:
        """B N h d -> B N h d, of keys and values."""
        return self._cut(x, _turned(x, self.back, self.rotation))

    def result(self, x: Tensor) -> Tensor:
        """B N h d -> B N h d: back to where queries came from."""
        return _turned(x, self.into, self.rotation.conj())

    def _cut(self, before: Tensor, after: Tensor) -> Tensor:
        if not self.capped:
            return after
        lengths = [(x.square().mean(-1, keepdim=True) + _EPS).sqrt() for x in (before, after)]
        return after * (lengths[0] / lengths[1]).clamp(max=1.0)


def camera_rotation(rotation: Tensor, head_dim: int) -> Tensor:
    """Return the rotation of half a head, N d/4: the first pairs of each axis of a whole one's (N d/2)."""
    pairs = [channels // 2 for channels in axis_channels(head_dim)]
    fewer = [channels // 2 for channels in axis_channels(head_dim // 2)]
    axes = rotation.split(pairs, dim=-1)
    return torch.cat([axis[..., :count] for axis, count in zip(axes, fewer, strict=True)], dim=-1)


def growth(before: Tensor, after: Tensor) -> Tensor:
    """Return how much longer keys (B T S h d) have become on the average of a frame, B T h, squared."""
    lengths = [x.norm(dim=-1).clamp(min=_EPS) for x in (before, after)]
    return (lengths[1] / lengths[0]).square().mean(2)


def for_batch(x: Tensor, batch: int) -> Tensor:
    """Return rows for so many clips: those given, again and again; one is for all."""
    return x if len(x) in (1, batch) else torch.cat([x] * (batch // len(x)))


def _turned(x: Tensor, matrix: Tensor, rotation: Tensor) -> Tensor:
    points, pairs = x.chunk(2, dim=-1)
    with torch.autocast(x.device.type, enabled=False):  # geometry stays as precise as it came
        moved = points.unflatten(-1, (-1, 4)) @ matrix.transpose(-1, -2)[:, :, None]  # B N h d/8 4
    return torch.cat([moved.flatten(-2), rotated(pairs, rotation)], dim=-1)
