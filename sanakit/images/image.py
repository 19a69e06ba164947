"""Images outside the models: sizes and aspect bins, tensors from and to pixels, previews, files with
settings.

Source of the bins and of the resizing: diffusers' SanaPipeline and PixArtImageProcessor, reproduced.
Shapes: B batch, C latent channels, h w latent grid, H W pixels, P side of a latent's patch in a preview.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sanakit.dialect import USUAL, Dialect
from sanakit.errors import OutputError, SizeError
from sanakit.images.settings import Metadata as Metadata
from sanakit.images.settings import file_options
from sanakit.images.settings import read_metadata as read_metadata
from sanakit.whole import written_whole

HALF = 127.5  # levels of a file's 255 that a unit of [-1, 1] spans
MIN_SIDE = 64  # pixels
MAX_SIDE = 4096
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = 95  # of JPEG and WebP
BINNED_SAMPLE_SIZES = (16, 32, 64, 128)  # of the published 512, 1024, 2K and 4K models

# Rectangles (height, width), in sixteenths of the square's side, that fit the rule of `aspect_bins` and yet
# are not in the published tables: the first in none of them, the others not in those of 512 and 1024 px.
_NEVER = {(21, 11)}
_NOT_BELOW_2K = {(8, 31), (8, 30), (26, 9), (28, 9), (29, 8), (30, 8), (31, 8)}
_NOT_NATIVE = _NOT_BELOW_2K - {(8, 31)} | {(8, 29)}  # at 2048 px
_PREVIEW_PATCH = 8


def drawn_size(
    width: int, height: int, *, sample_size: int, compression: int, binned: bool, dialect: Dialect = USUAL
) -> tuple[int, int]:
    """Return (height, width) in pixels of what the transformer draws for an image of width x height.

    sample_size: side in latents that it was trained on. compression: pixels a latent. binned: whether to take
    the nearest shape that a published model was trained on; then any width and height will do.
    Raises SizeError, which names the nearest valid size.
    """
    sides = (width, height)
    if any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
        raise SizeError(f"The size {width!r} x {height!r} is not a pair of whole numbers of pixels.")
    binned = binned and sample_size in BINNED_SAMPLE_SIZES
    multiple = 1 if binned else compression
    if not all(MIN_SIDE <= side <= MAX_SIDE and side % multiple == 0 for side in sides):
        nearest = [multiple * round(min(max(side, MIN_SIDE), MAX_SIDE) / multiple) for side in sides]
        rule = "" if binned else f"multiples of {multiple} "
        raise SizeError(
            f"{width}x{height} cannot be drawn: both sides must be {rule}from {MIN_SIDE} to {MAX_SIDE} px. "
            f"The nearest such size is {nearest[0]}x{nearest[1]}."
        )
    return nearest_bin(height, width, sample_size * compression, dialect) if binned else (height, width)


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height in pixels from "1024x768", or from "1024" for a square. Raises SizeError.

    >>> parse_size("1024x768")
    (1024, 768)
    """
    match = re.fullmatch(r"(\d{1,9})(?:[xX×](\d{1,9}))?", text.strip())
    if match is None:
        raise SizeError(
            f"The size {text!r} cannot be read: write width and height in pixels, such as 256x192."
        )
    return int(match[1]), int(match[2] or match[1])


def aspect_bins(side: int, dialect: Dialect = USUAL) -> list[tuple[int, int]]:
    """Return the training sizes (height, width) of the published model of side x side, flattest first.

    They follow a rule: rectangles of whole sixteenths of the side, from 1:4 to 4:1, that cover more than 90 %
    of the square and at most all of it; a few are left out. NVIDIA's scripts have 33 at 2048 px as well.

    >>> aspect_bins(1024)[0], len(aspect_bins(1024)), len(aspect_bins(2048))
    ((512, 2048), 33, 40)
    """
    left_out = _NEVER if side >= 2048 else _NEVER | _NOT_BELOW_2K
    if side == 2048 and dialect == "native":
        left_out = _NEVER | _NOT_NATIVE
    shapes = [(h, w) for h in range(8, 33) for w in range(8, 33) if 0.9 < h * w / 256 <= 1]
    unit = side // 16
    return [
        (h * unit, w * unit)
        for h, w in sorted(shapes, key=lambda hw: hw[0] / hw[1])
        if (h, w) not in left_out
    ]


def nearest_bin(height: int, width: int, side: int, dialect: Dialect = USUAL) -> tuple[int, int]:
    """Return the bin (height, width) with the nearest ratio, rounded to hundredths as published."""
    return min(aspect_bins(side, dialect), key=lambda hw: abs(round(hw[0] / hw[1], 2) - height / width))


def resize_and_crop(images: Tensor, height: int, width: int) -> Tensor:
    """Scale images (B 3 H W) bilinearly until they just cover height x width; cut that from their middle."""
    came = images.shape[-2:]
    if came == (height, width):
        return images
    ratio = max(height / came[0], width / came[1])
    # `max`: float error may leave the product one pixel short
    size = (max(int(came[0] * ratio), height), max(int(came[1] * ratio), width))
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return images[..., top : top + height, left : left + width]


def from_levels(levels: Tensor) -> Tensor:
    """Return the 8 bits of a file, any shape, as float32 in [-1, 1]."""
    return levels.float().div_(HALF).sub_(1)  # twice as quick as dividing the bytes


def to_tensor(images: np.ndarray) -> Tensor:
    """Return B H W 3 uint8 as B 3 H W in [-1, 1], channels last in memory."""
    return from_levels(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2))


def to_levels(images: Tensor) -> Tensor:
    """Return B 3 H W in [-1, 1] (clamped to it) as the 8 bits of a file: B H W 3, on the CPU."""
    levels = images.detach().float().clamp(-1, 1).add_(1).mul_(HALF).round_().to("cpu", torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()


def to_pil(images: Tensor) -> list[Image.Image]:
    """Return B 3 H W in [-1, 1] (clamped to it) as one RGB image each."""
    return [Image.fromarray(pixels.numpy()) for pixels in to_levels(images)]


def fit_preview(decode: Callable[[Tensor], Tensor], channels: int, compression: int) -> Tensor:
    """Fit the linear map from a latent and a constant 1 to its patch of P x P pixels: (C + 1, 3 P P).

    decode: B C h w, as the transformer sees them, to B 3 H W; it draws sixteen tiny latents of half the usual
    spread, as much work as an image of 512 px. The map is the ridge regression on what it drew.
    Measured on pocket: 23.5 dB to the decoder's images, 27.0 dB if it were fitted on real latents.
    """
    generator = torch.Generator().manual_seed(0)
    latents = 0.5 * torch.randn(16, channels, 4, 4, generator=generator, dtype=torch.float32, device="cpu")
    patch = min(_PREVIEW_PATCH, compression)
    drawn = decode(latents).float().cpu().clamp(-1, 1)
    targets = F.pixel_unshuffle(F.avg_pool2d(drawn, compression // patch), patch)  # B 3PP h w
    rows = _with_one(latents).movedim(1, -1).flatten(0, 2).double()
    values = targets.movedim(1, -1).flatten(0, 2).double()
    ridge = 1e-3 * len(rows) * torch.eye(channels + 1, dtype=torch.float64)
    return torch.linalg.solve(rows.T @ rows + ridge, rows.T @ values).float()


def draw_preview(weights: Tensor, latents: Tensor) -> Image.Image:
    """Draw one image's latents (C h w) through the map of `fit_preview`, P x P pixels a latent."""
    latents = latents.detach().float().cpu()[None]
    patches = torch.einsum("bchw,cd->bdhw", _with_one(latents), weights)
    return to_pil(F.pixel_shuffle(patches, math.isqrt(weights.shape[1] // 3)))[0]


def encode(
    image: Image.Image, file_format: str, metadata: Mapping | None = None, quality: int = QUALITY
) -> bytes:
    """Return the bytes of an image's file. file_format: "PNG", "JPEG" or "WEBP"; all else as for `save`.

    quality: 1 to 100, of JPEG and WebP.
    """
    file = io.BytesIO()
    image.save(file, format=file_format, **file_options(file_format, metadata or {}, quality))
    return file.getvalue()


def save(image: Image.Image, path: str | os.PathLike[str], metadata: Mapping | None = None) -> Path:
    """Write an image whole or not at all, in the format of its suffix: .png, .jpg, .jpeg or .webp.

    metadata: its settings, as in `Result.metadata`, which the file carries, see `settings.py`; None: none.
    Returns the path. Raises OutputError. Warns where a JPEG file has no room for them.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"{path} cannot be written: end the name in one of {', '.join(FORMATS)}.")
    if os.path.isdir(path):  # unlike Path.is_dir, says no to names that no file can have
        raise OutputError(f"{path} is a folder: give the name of a file.")
    if not os.path.isdir(path.parent):
        raise OutputError(f"The folder {path.parent} does not exist: create it first or choose another one.")
    file_format = FORMATS[path.suffix.lower()]
    options = file_options(file_format, metadata or {}, QUALITY)
    try:
        with written_whole(path) as partial:
            image.save(partial, format=file_format, **options)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{path} cannot be written ({reason}): check the path, its permissions and the free space."
        ) from None
    return path


def _with_one(latents: Tensor) -> Tensor:
    """B C h w -> B C+1 h w, the last channel all ones."""
    return torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
