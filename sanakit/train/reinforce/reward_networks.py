"""Networks as rewards: a CLIP's score, and ImageReward.

Shapes: B images, H W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.eval.networks.image_reward import REPO, ImageReward, load_image_reward
from sanakit.images.image import to_pil
from sanakit.text.clip import ClipScorer
from sanakit.weights import load_clip


@dataclass(frozen=True, slots=True, eq=False)
class ClipReward:
    """100 times the cosine of image and prompt: the fit of the words, less of what relates them."""

    name: str
    clip: ClipScorer

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the scores, B; negative ones, too, so that all differ."""
        return 100 * (self.clip.images(images) * self.clip.texts(prompts)).sum(1)


def clip_reward(place: str, device: str | torch.device = "cpu") -> ClipReward:
    """Load a CLIP; place: as for `load_clip`, whose errors it raises."""
    return ClipReward(_called(place), load_clip(place, device=device))


@dataclass(frozen=True, slots=True, eq=False)
class PreferenceReward:
    """ImageReward: what people would prefer, with a spread of about 1."""

    name: str
    network: ImageReward

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the rewards, B."""
        return torch.tensor(self.network(to_pil(images), prompts), dtype=torch.float32)

    @classmethod
    def open(cls, place: str, device: str | torch.device = "cpu") -> PreferenceReward:
        """Load it; place: a file, a folder or a repository; "": the published. Raises as loading does."""
        return cls("image-reward", load_image_reward(place or REPO, device=device))


def _called(place: str) -> str:
    """Return a name for logs from a place.

    >>> _called("openai/clip-vit-large-patch14")
    'clip-vit-large-patch14'
    """
    return re.sub(r"[^\w-]+", "-", place.rstrip("/").rpartition("/")[2]) or "clip"
