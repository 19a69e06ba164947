"""Redraw a part of an image, or extend it, and keep all other pixels unchanged.

While denoising, latents that no masked pixel touches are pulled back to the image (`denoise.Batch`). In the
end, every pixel outside the mask is the image's own, and the new pixels fade in inside its edge.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Unpack

import numpy as np
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.opening import MAX_PIXELS, flatten
from sanakit.pipelines.image_to_image import FromImage
from sanakit.pipelines.request import DrawSettings, check_request, whole_number
from sanakit.pipelines.result import Result, Step, result_of
from sanakit.pipelines.source import FEATHER, make_source

MAX_MARGIN = 4096  # pixels


class Inpaint(FromImage):
    """Redraws what a mask marks."""

    def __call__(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        strength: float = 1.0,
        feather: int = FEATHER,
        width: int | None = None,
        height: int | None = None,
        **settings: Unpack[DrawSettings],
    ) -> Result:
        """Redraw the marked part.

        mask: of the image's size; white is redrawn, or transparent pixels if there are any. strength: below 1
        it starts from the masked part's content. feather: width in pixels of the fade inside the mask's edge.
        image and all others: as for `ImageToImage.__call__`; "pt" and "latent" are as drawn, without the
        image's own pixels.
        Raises as `TextToImage.__call__` does.
        """
        stream = self.stream(
            image,
            mask,
            prompt,
            negative_prompt,
            strength=strength,
            feather=feather,
            width=width,
            height=height,
            **settings,
        )
        return result_of(deque(stream, maxlen=1).pop())

    def stream(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        strength: float = 1.0,
        feather: int = FEATHER,
        width: int | None = None,
        height: int | None = None,
        **settings: Unpack[DrawSettings],
    ) -> Iterator[Step]:
        """Draw as `__call__` does, step by step, as `TextToImage.stream` does."""
        if mask is None:  # without one, all would be redrawn
            raise SettingsError("The mask is missing: pass an image that is white where to redraw.")
        spec, binned = self.pipe.spec, settings.get("binned", True)
        source = make_source(
            spec, image, strength, mask=mask, width=width, height=height, feather=feather, binned=binned
        )
        return self.pipe.draw(check_request(spec, prompt, negative_prompt, source=source, **settings))


def expand(
    image: Image.Image, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0
) -> tuple[Image.Image, Image.Image]:
    """Return a larger canvas with the image on it, and the mask of the new pixels (outpainting).

    left, top, right, bottom: pixels to add, 0 to 4096. New pixels repeat the image's edge until they are
    painted. Raises SettingsError.
    """
    names = ("left", "top", "right", "bottom")
    margins = zip(names, (left, top, right, bottom), strict=True)
    left, top, right, bottom = (whole_number(name, margin, 0, MAX_MARGIN) for name, margin in margins)
    if not left + top + right + bottom:
        raise SettingsError("All margins are 0: set left, top, right or bottom to a number of pixels.")
    image = flatten(image)
    width, height = image.width + left + right, image.height + top + bottom
    if width * height > MAX_PIXELS:
        raise SettingsError(
            f"{width}x{height} px would be drawn, more than the limit of {MAX_PIXELS // 10**6} million."
        )
    canvas = Image.fromarray(np.pad(np.array(image), ((top, bottom), (left, right), (0, 0)), mode="edge"))
    mask = Image.new("L", canvas.size, 255)
    mask.paste(0, (left, top, left + image.width, top + image.height))
    return canvas, mask
