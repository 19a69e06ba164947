"""Frechet distance between two sets of images: as Gaussians in a network's feature space, lower is nearer.

|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), from means and covariances of features.
Source: Heusel et al. 2017 (arXiv:1706.08500), eq. 6. The published figures use Inception-v3 (FID). The same
in EfficientNet-Lite0's features needs no download ("fid-lite0"): another ruler, whose figures compare only
with each other. Both are biased upwards for few images, so compare only equal numbers of them.
Shapes: B images, F features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import DataError, NumericsError, SettingsError
from sanakit.eval.folder import pixels, read_image
from sanakit.images.opening import flatten
from sanakit.whole import written_whole

Extract = Callable[[Tensor], Tensor]
"""Images of one size, B 3 H W in [-1, 1], to their features, B F."""
BATCH = 16  # images in the network at once


@dataclass(slots=True, eq=False)
class Moments:
    """Mean and covariance of features that come in parts; float64 throughout.

    count: features seen.   mean: F.   scatter: F F, the sum of products of deviations from the mean.
    """

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    scatter: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    @property
    def covariance(self) -> Tensor:
        """F F, divided by count - 1. Raises SettingsError for fewer than two features."""
        if self.count < 2:
            raise SettingsError(
                f"A Frechet distance needs at least two images on each side, not {self.count}: add some."
            )
        return self.scatter / (self.count - 1)

    def add(self, features: Tensor) -> None:
        """Take in B F more.

        Parts are joined by Chan's rule, which, unlike sums of squares, loses no digits however far the mean
        lies from zero. Raises NumericsError for NaN or infinity.
        """
        new = features.double().cpu()
        if not new.isfinite().all():
            raise NumericsError("The feature network gave NaN or infinity for an image: check its weights.")
        mean = new.mean(0)
        deviations = new - mean
        if not self.count:
            self.count, self.mean, self.scatter = len(new), mean, deviations.T @ deviations
            return
        total, step = self.count + len(new), mean - self.mean
        self.scatter += deviations.T @ deviations
        self.scatter += torch.outer(step, step) * (self.count * len(new) / total)
        self.mean = self.mean + step * (len(new) / total)
        self.count = total


def frechet_distance(first: Moments, second: Moments) -> float:
    """Return the squared Frechet distance of two Gaussians, at least 0.

    The trace of the root of S1 S2 is that of the symmetric S1^(1/2) S2 S1^(1/2), whose eigenvalues are real
    and not negative; so, unlike with a root of the product itself, singular covariances (fewer images than
    features) need no remedy. Raises SettingsError when the features do not match or are too few.
    """
    if first.mean.shape != second.mean.shape:
        raise SettingsError(
            f"One side has {len(first.mean)} features and the other {len(second.mean)}: they are of "
            "different networks; compute both with the same one."
        )
    s1, s2 = first.covariance, second.covariance
    values, axes = torch.linalg.eigh(s1)
    root = axes * values.clamp(min=0).sqrt() @ axes.T
    product = root @ s2 @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    apart = (first.mean - second.mean).square().sum()
    return max(float(apart + s1.trace() + s2.trace() - 2 * overlap), 0.0)


def moments_of(
    images: Iterable[Path | Image.Image],
    extract: Extract,
    *,
    side: int | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Moments:
    """Return the moments of images' features, BATCH at a time if sizes allow it.

    images: files, or images.   side: pixels that the shorter side is brought to first and a middle square
    cut out of, as for a set of mixed sizes; None: images as they are.   report: told how many are done.
    Raises DataError for a file that is not an image.
    """
    moments = Moments()
    waiting: list[Tensor] = []

    def flush() -> None:
        if waiting:
            moments.add(extract(torch.stack(waiting)))
            waiting.clear()
            report(moments.count)

    for one in images:
        image = read_image(one) if isinstance(one, Path) else flatten(one)
        values = pixels(image, side)
        if waiting and (waiting[0].shape != values.shape or len(waiting) == BATCH):
            flush()
        waiting.append(values)
    flush()
    return moments


def save_moments(path: str | os.PathLike[str], moments: Moments) -> None:
    """Write statistics as pytorch-fid's .npz does (mu, sigma), and their count; whole or not at all."""
    with written_whole(Path(path)) as partial, partial.open("wb") as file:
        np.savez(
            file, mu=moments.mean.numpy(), sigma=moments.covariance.numpy(), count=np.int64(moments.count)
        )


def load_moments(path: str | os.PathLike[str]) -> Moments:
    """Read statistics of `save_moments` or pytorch-fid.

    pytorch-fid does not say how many images there were; the count is then 2, the least with a covariance.
    Raises DataError for another file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
            count = int(arrays["count"]) if "count" in arrays else 2
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{path} holds no statistics of images ({error}): give an .npz with mu and sigma, or the "
            "folder of the images themselves."
        ) from None
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or count < 2:
        raise DataError(
            f"{path} holds mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)}: they do not match."
        )
    return Moments(count, mean, covariance * (count - 1))
