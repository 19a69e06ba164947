"""Images as notebooks show them: one PNG, or HTML with a caption under each image."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence

from PIL import Image

from sanakit.images.image import encode

MOST_SHOWN = 64  # images in a cell's output, and a longer side in pixels that browsers show at once
MOST_SIDE = 512
CAPTION = 120  # characters of the prompt


def html_of(images: Sequence[Image.Image], metadata: Sequence[Mapping[str, object]]) -> str:
    """Return images as HTML: each within its page, with prompt and seed under it; large ones are scaled."""
    figures = []
    for image, settings in list(zip(images, metadata, strict=True))[:MOST_SHOWN]:
        data = base64.b64encode(encode(_small(image), "PNG")).decode("ascii")
        prompt, seed = str(settings.get("prompt", ""))[:CAPTION], settings.get("seed")
        told = html.escape(prompt if seed is None else f"{prompt}, seed {seed}")
        figures.append(
            f'<figure style="display:inline-block;margin:4px"><img src="data:image/png;base64,{data}" '
            f'alt="{told}"><figcaption style="max-width:{image.width}px">{told}</figcaption></figure>'
        )
    left = len(images) - len(figures)
    return "".join(figures) + (f"<p>and {left} more</p>" if left else "")


def png_of(images: Sequence[Image.Image]) -> bytes:
    """Return images side by side as the bytes of a PNG file; of one image its own. At least one is needed."""
    shown = [_small(image) for image in images[:MOST_SHOWN]]
    columns = math.ceil(math.sqrt(len(shown)))
    width, height = (max(sides) for sides in zip(*(image.size for image in shown), strict=True))
    sheet = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height), "white")
    for index, image in enumerate(shown):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return encode(sheet if len(shown) > 1 else shown[0], "PNG")


def _small(image: Image.Image) -> Image.Image:
    scale = MOST_SIDE / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
