"""Is it what was requested? Images are recognised by the real images that they are nearest to.

Feature space: EfficientNet-Lite0's last layer (ImageNet; it has seen none of our images), less its mean, on
the directions in which images of other things vary most, each scaled to equal variance. Without that,
drawings on white look much alike to a network that was trained on photographs.
A concept is the mean direction of its real images; an image is recognised (top-1, top-5) when no, or fewer
than five, other concepts have as large a cosine with it.
Shapes: B images asked about, N gallery images, C concepts, F features, D directions kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

TOP = 5


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of images, in [0, 1], whose concept is the nearest (top1) or among the five nearest (top5)."""

    top1: float
    top5: float

    @classmethod
    def of(cls, ranks: Tensor) -> Shares:
        """Count ranks (B, 0 = nearest); no images give not-a-number."""
        return cls(*((ranks < top).float().mean().item() for top in (1, TOP)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gallery:
    """Real images of every concept, as points of the feature space.

    mean: F and basis: F D, from features to coordinates.   images: N D, of length 1.
    labels: N, in [0, C).   designs, artists: N, what an image belongs to and who drew it.   concepts: C.
    """

    mean: Tensor
    basis: Tensor
    images: Tensor
    labels: Tensor
    designs: tuple[str, ...]
    artists: tuple[str, ...]
    concepts: tuple[str, ...]

    def project(self, features: Tensor) -> Tensor:
        """Coordinates of features (B F), B D, of length 1."""
        return project(features, self.mean, self.basis)

    def similarity(self, points: Tensor) -> Tensor:
        """Cosine of projected images (B D) with every concept, B C; 0 for a concept without images."""
        sums = points.new_zeros(len(self.concepts), points.shape[1]).index_add_(0, self.labels, self.images)
        return points @ F.normalize(sums, dim=1).T

    def ranks(self, points: Tensor, labels: Tensor) -> Tensor:
        """Return how many concepts are nearer to each projected image (B D) than its own (labels, B); B."""
        similarity = self.similarity(points)
        own = similarity.gather(1, labels[:, None])
        # a tie counts against the image: it must not be recognised by a gallery that tells nothing apart
        return (similarity >= own).sum(1) - 1

    def only(self, kept: Tensor) -> Gallery:
        """Return the gallery of the kept images (N bool)."""
        chosen = kept.nonzero().flatten().tolist()
        return replace(
            self,
            images=self.images[kept],
            labels=self.labels[kept],
            designs=tuple(self.designs[i] for i in chosen),
            artists=tuple(self.artists[i] for i in chosen),
        )


def fit_basis(features: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """Find mean F and basis F D of features N F: principal components, scaled to variance 1.

    directions: D <= min(N, F).   Raises ValueError for more.
    """
    if directions > min(features.shape):
        raise ValueError(f"{directions} directions cannot be computed from {len(features)} images.")
    mean = features.mean(0)
    _, lengths, axes = torch.linalg.svd(features - mean, full_matrices=False)
    return mean, axes[:directions].T / lengths[:directions] * len(features) ** 0.5


def project(features: Tensor, mean: Tensor, basis: Tensor) -> Tensor:
    """Coordinates of features (B F) from a mean (F) on a basis (F D), as directions: B D, of length 1."""
    return F.normalize((features - mean) @ basis, dim=1)


def ceiling(gallery: Gallery, groups: Sequence[str]) -> Shares:
    """Recognise the real images themselves, each group's among the images of the other groups.

    groups: N names.   With `gallery.designs` an image's other designs stay, among them near twins; with
    `gallery.artists` only what somebody else drew under the same name.
    """
    names = sorted(set(groups))
    group = torch.tensor([names.index(name) for name in groups])
    found = []
    for index in range(len(names)):
        inside = group == index
        others = gallery.only(~inside)
        found.append(others.ranks(gallery.images[inside], gallery.labels[inside]))
    return Shares.of(torch.cat(found))


def floor(gallery: Gallery, points: Tensor, generator: torch.Generator) -> Shares:
    """Recognise random images: every concept is dealt one of some other projected images (B D)."""
    dealt = torch.randint(len(points), (len(gallery.concepts),), generator=generator)
    return Shares.of(gallery.ranks(points[dealt], torch.arange(len(gallery.concepts))))
