"""Clips and images in turn: an image is a clip of one frame.

All samples of a step have one size, so a step shows either clips or images. Image steps are spread evenly.
Each feed sees steps of its own, counted without gaps, as feeds that read ahead need them.
Source: SANA-Video (arXiv:2509.24695), whose joint training makes every k-th step one of images.
"""

from __future__ import annotations

from collections.abc import Sequence

from sanakit.errors import SettingsError
from sanakit.train.feeds.feed import Feed, Shown
from sanakit.train.parts import Part


class JointFeed:
    """Shows clips in most steps and images in the others.

    clips, images: feeds of latents B C T h w; those of images have one frame. image_share: of the steps, from
    0 to 1: every k-th one for 1 / k. Raises SettingsError for a share out of range.
    """

    def __init__(self, clips: Feed, images: Feed, image_share: float) -> None:
        if not 0 <= image_share <= 1:
            raise SettingsError(f"image_share = {image_share!r}, but it must be a number from 0 to 1.")
        self.clips, self.images, self.image_share = clips, images, image_share

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let both feeds get ready."""
        before = self._images_before(first)
        self.images.begin(before, parts)
        self.clips.begin(first - before, parts)

    def shown(self, step: int, part: Part) -> Shown:
        """Return a part of a step's batch, of one of the two."""
        before = self._images_before(step)
        if self.shows_images(step):
            return self.images.shown(before, part)
        return self.clips.shown(step - before, part)

    def shows_images(self, step: int) -> bool:
        """Return whether a step is one of images."""
        return self._images_before(step + 1) > self._images_before(step)

    def _images_before(self, step: int) -> int:
        # the share of 1 / 3 in float64, three times, must be one step
        return int(step * self.image_share + 1e-9)
