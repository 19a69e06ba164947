"""Does a clip obey its camera path? How the image moves, views that are revisited, likeness to true frames.

- A key's sign: the first and last frames of a held key tell where the image went. Turning or stepping right
  moves it left, looking up moves it down, walking forward enlarges it. A mirrored axis shows at once.
- Revisits: where a path comes back to a pose, the image should be that of the first visit (PSNR).
- Retrieval: of the true clips along several paths from one frame, is that along the own path the nearest?
- Likeness to true frames, beside controls: it means little unless a copy of the first frame, a clip without
  cameras and one of another path are further off. Its fall from the first third to the last is the drift.
Source: questions that papers on steered clips ask; the equations here are ours.
Shapes: T frames, H W pixels, three channels, uint8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.eval.metrics.similarity import psnr
from sanakit.images.image import from_levels
from sanakit.wording import counted

GROWTHS = tuple(1.04**step for step in range(-10, 11))  # that are looked for: 0.68 to 1.48
LEAST_SHIFT, LEAST_GROWTH = 1.0, 1.02  # pixels, and a factor, below which nothing has moved
LEAST_LIKENESS = 0.1  # below which two images have nothing in common, and no motion between them is told
SAME_POSE = 1e-4  # of any number of a pose
_FLAT = 1e-8  # product of two variances of levels, below which images have no pattern
# Key -> which number of `ImageMotion` it changes, and whether that grows.
SIGNS: dict[str, tuple[str, bool]] = {
    **{key: ("right", True) for key in "aj"},
    **{key: ("right", False) for key in "dl"},
    **{"i": ("down", True), "k": ("down", False), "w": ("growth", True), "s": ("growth", False)},
}


@dataclass(frozen=True, slots=True)
class ImageMotion:
    """How one image becomes another: enlarged about its centre, then moved."""

    right: float  # pixels
    down: float
    growth: float  # a factor; 1: as large as before
    likeness: float  # correlation of the two after it, up to 1

    def obeys(self, key: str) -> bool:
        """Return whether the image went where a held key should take it. key: one of `SIGNS`."""
        name, grows = SIGNS[key]
        if name == "growth":
            return self.growth >= LEAST_GROWTH if grows else self.growth <= 1 / LEAST_GROWTH
        moved = self.right if name == "right" else self.down
        return moved >= LEAST_SHIFT if grows else moved <= -LEAST_SHIFT


def image_motion(before: np.ndarray, after: np.ndarray) -> ImageMotion:
    """Return the enlargement and shift, up to half a side, under which two images agree best, H W 3 each.

    They agree as their levels correlate over the part that both show. Of all enlargements in `GROWTHS` the
    one is taken whose best shift correlates most. Raises SettingsError for images of two sizes.
    """
    if before.shape != after.shape:
        raise SettingsError(f"The images have the shapes {before.shape} and {after.shape}: use one size.")
    first, second = (_grey(image) for image in (before, after))
    found = []
    fixed = _transforms(second, torch.ones_like(second))
    for growth in GROWTHS:
        agreement = _correlations(
            _transforms(*_enlarged(first, growth)), fixed, (len(second), second.shape[1])
        )
        down, right = divmod(int(agreement.argmax()), agreement.shape[1])
        likeness = float(agreement[down, right])
        found.append((likeness, right - agreement.shape[1] // 2, down - agreement.shape[0] // 2, growth))
    # of equal ones, that which changes least
    likeness, right, down, growth = max(found, key=lambda one: (round(one[0], 6), -abs(np.log(one[3]))))
    if likeness < LEAST_LIKENESS:
        return ImageMotion(0.0, 0.0, 1.0, 0.0)
    return ImageMotion(float(right), float(down), growth, likeness)


def revisit_psnr(frames: np.ndarray, poses: Tensor) -> tuple[float, int]:
    """Return the mean PSNR in dB of frames and those of the first visit to their pose, and their number.

    frames: T H W 3. poses: T 4 4. A pose is visited again if the camera was elsewhere meanwhile. Raises
    SettingsError for a path that does not come back.
    """
    if len(frames) != len(poses):
        raise SettingsError(f"{len(frames)} frames came with {len(poses)} poses: pass one pose for each.")
    pairs, same = [], (poses[:, None] - poses[None]).abs().amax((2, 3)) < SAME_POSE  # T T
    for later in range(len(poses)):
        first = int(same[later].int().argmax())
        if not bool(same[later, first : later + 1].all()):
            pairs.append((first, later))
    if not pairs:
        raise SettingsError("The path does not come back to a pose: use one that goes there and back.")
    one, other = (_images(frames[[pair[side] for pair in pairs]]) for side in (0, 1))
    return float(psnr(one, other).mean()), len(pairs)


def likeness_to_truth(
    frames: np.ndarray, truth: np.ndarray, controls: Mapping[str, np.ndarray]
) -> dict[str, list[float]]:
    """Return the PSNR in dB to true frames, of every frame but the first: of the clip, then of each control.

    All T H W 3. controls: other clips, by name. "first-frame", a copy of the true first one, is added. Raises
    SettingsError for clips of other shapes.
    """
    clips = {"own": frames, **controls, "first-frame": np.broadcast_to(truth[:1], truth.shape)}
    if wrong := [name for name, clip in clips.items() if clip.shape != truth.shape]:
        raise SettingsError(
            f"The clip {wrong[0]} has the shape {clips[wrong[0]].shape}, the true one {truth.shape}: they "
            "must be equal."
        )
    wanted = _images(truth[1:])
    return {name: psnr(_images(clip[1:]), wanted).tolist() for name, clip in clips.items()}


def retrieved(drawn: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> list[bool]:
    """Return for each drawn clip whether, of all true ones, that along its own path is nearest to it.

    drawn, truths: T H W 3 each, path by path, from one first frame, which is not compared. Nearest is the
    least mean squared error: how blurred a clip is does not matter, since that is the same for all. Chance is
    one in so many. Raises SettingsError for fewer than two, or for clips of several shapes.
    """
    shapes = {clip.shape for clip in (*drawn, *truths)}
    if len(drawn) != len(truths) or len(drawn) < 2 or len(shapes) > 1:
        raise SettingsError(
            f"{counted(len(drawn), 'clip')} and {len(truths)} true of {counted(len(shapes), 'shape')} came: "
            "pass one of each for every path, at least two, of one shape."
        )
    wanted = torch.stack([_images(clip[1:]) for clip in truths])  # K T-1 3 H W
    errors = torch.stack([(wanted - _images(clip[1:])).square().flatten(1).mean(1) for clip in drawn])
    own = errors.diagonal()
    others = errors.masked_fill(torch.eye(len(drawn), dtype=torch.bool), torch.inf).amin(1)
    return (own < others).tolist()


def drift(likeness: Sequence[float]) -> float:
    """Return how many dB the last third of a clip is less like the true frames than its first third.

    likeness: PSNR of each frame in dB, as from `likeness_to_truth`. Raises SettingsError for less than three.
    """
    third = len(likeness) // 3
    if not third:
        raise SettingsError(f"The clip has {len(likeness)} frames after its first: drift needs three.")
    return fmean(likeness[:third]) - fmean(likeness[-third:])


def _images(frames: np.ndarray) -> Tensor:  # T H W 3 -> T 3 H W in [-1, 1]
    return from_levels(torch.from_numpy(np.ascontiguousarray(frames))).movedim(-1, 1)


def _grey(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).double().mean(-1) / 255


def _transforms(image: Tensor, shown: Tensor) -> list[Tensor]:
    """Return the Fourier transforms of where an image has pixels (shown: 1), of it, and of its square."""
    size = [2 * side for side in image.shape]  # so that nothing goes round
    return [torch.fft.rfft2(part, s=size) for part in (shown, image * shown, image.square() * shown)]


def _correlations(moved: Sequence[Tensor], fixed: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Return how two images correlate when the first is moved, for each shift of up to half a side.

    moved, fixed: from `_transforms`. size: height and width. Returns rows of shifts down by columns of shifts
    to the right, no shift in the middle; -1 where they share less than a quarter. Source: normalised
    correlation of masked images by Fourier transforms (Padfield 2012).
    """
    down, right = size[0] // 2, size[1] // 2

    def sums(one: int, other: int) -> Tensor:  # of products, at each shift
        product = torch.fft.irfft2(fixed[other] * moved[one].conj(), s=(2 * size[0], 2 * size[1]))
        return torch.roll(product, (down, right), (0, 1))[: 2 * down + 1, : 2 * right + 1]

    count = sums(0, 0)
    means = sums(1, 0) / count, sums(0, 1) / count
    spreads = sums(2, 0) / count - means[0].square(), sums(0, 2) / count - means[1].square()
    found = (sums(1, 1) / count - means[0] * means[1]) / (spreads[0] * spreads[1]).clamp(min=_FLAT).sqrt()
    return torch.where(count > size[0] * size[1] / 4, found, -1.0)


def _enlarged(image: Tensor, growth: float) -> tuple[Tensor, Tensor]:
    """Return an image enlarged about its centre, and where it has pixels."""
    height, width = image.shape
    axes = [torch.linspace(-1, 1, side, dtype=torch.float64) / growth for side in (height, width)]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None]
    enlarged = F.grid_sample(image[None, None], grid, padding_mode="border", align_corners=True)[0, 0]
    return enlarged, ((rows.abs() <= 1) & (columns.abs() <= 1)).double()
