"""Convert ComfyUI's IMAGE, MASK, LATENT and CONDITIONING to our tensors and images, and back.

IMAGE: B H W C float in [0, 1].   MASK: B H W or H W float, 1 = redraw.
LATENT: {"samples": B C h w}: the autoencoder's own latents; models see them times its scaling factor. That is
ComfyUI's rule for every model: a latent between two nodes is what its VAE gives, unscaled.
CONDITIONING: [[1 L E, {}]]: features of a prompt, here unpadded; the dict holds what other nodes ask for.
Shapes: B images, C channels, H W pixels, h w latents, L tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.images.opening import flatten

Latent = dict[str, Any]
Conditioning = list[list[Any]]


def to_images(image: Tensor) -> list[Image.Image]:
    """Return an IMAGE as RGB (or, of four channels, RGBA) images of 8 bits. Raises SettingsError."""
    _check_image(image)
    levels = image.detach().float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return [Image.fromarray(pixels.contiguous().numpy()) for pixels in levels]


def from_images(images: Sequence[Image.Image]) -> Tensor:
    """Return RGB images of one size as an IMAGE."""
    levels = [torch.from_numpy(np.array(image.convert("RGB"))) for image in images]
    return torch.stack(levels).float() / 255


def to_frames(image: Tensor) -> np.ndarray:
    """Return an IMAGE as frames, T H W 3 uint8, on white where it is transparent. Raises SettingsError."""
    return np.stack([np.array(flatten(frame)) for frame in to_images(image)])


def from_frames(frames: np.ndarray) -> Tensor:
    """Return the frames of a clip, T H W 3 uint8, as an IMAGE."""
    return torch.from_numpy(frames).float() / 255


def to_masks(mask: Tensor, count: int, height: int, width: int) -> list[Image.Image]:
    """Return a MASK as `count` grey images (mode L) of height x width, white = redraw.

    A mask of another size is scaled, as ComfyUI's own nodes do; one alone serves all images.
    Raises SettingsError.
    """
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3):
        raise SettingsError(f"The mask came as {_shape(mask)}, but a MASK is images x height x width.")
    planes = mask.detach().float().cpu().reshape(-1, 1, *mask.shape[-2:]).clamp(0, 1)
    if len(planes) not in (1, count):
        raise SettingsError(
            f"{len(planes)} masks came for {count} images: connect one mask, or one per image."
        )
    if planes.shape[2:] != (height, width):
        planes = F.interpolate(planes, (height, width), mode="bilinear")
    levels = planes.mul(255).round().to(torch.uint8).expand(count, -1, -1, -1)
    return [Image.fromarray(plane[0].contiguous().numpy()) for plane in levels]


def to_pixels(image: Tensor, multiple: int) -> Tensor:
    """Return an IMAGE as B 3 H W in [-1, 1], cut from its middle to whole multiples. Raises SettingsError."""
    _check_image(image)
    height, width = (side - side % multiple for side in image.shape[1:3])
    if not height or not width:
        came = f"{image.shape[2]}x{image.shape[1]}"
        raise SettingsError(f"The image is {came}, but each side needs at least {multiple} px: scale it up.")
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    cut = image[:, top : top + height, left : left + width, :3]
    return cut.detach().float().clamp(0, 1).permute(0, 3, 1, 2) * 2 - 1


def from_pixels(pixels: Tensor) -> Tensor:
    """Return B 3 H W in [-1, 1] (clamped to it) as an IMAGE."""
    return pixels.detach().float().cpu().clamp(-1, 1).add(1).div(2).permute(0, 2, 3, 1).contiguous()


def to_latents(latent: Latent, channels: int, scaling_factor: float) -> Tensor:
    """Return a LATENT as the transformer sees it: B C h w. Raises SettingsError if it is of another model."""
    samples: Any = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) or samples.ndim != 4 or samples.shape[1] != channels:
        raise SettingsError(
            f"The latent came as {_shape(samples)}, but this model's have the shape (images, {channels}, "
            "height / 32, width / 32): make it with this pack's encode or sampler node."
        )
    return samples.detach().float() * scaling_factor


def from_latents(latents: Tensor, scaling_factor: float) -> Latent:
    """Return the transformer's latents B C h w as a LATENT."""
    return {"samples": latents.detach().float().cpu() / scaling_factor}


def to_features(conditioning: Conditioning, width: int, name: str) -> Tensor:
    """Return a CONDITIONING as features L E. Raises SettingsError.

    width: E of the model. name: "positive" or "negative", for the message.
    """
    if not isinstance(conditioning, list) or len(conditioning) != 1:
        count = len(conditioning) if isinstance(conditioning, list) else _shape(conditioning)
        raise SettingsError(
            f"{name} holds {count} conditionings, but this sampler takes one: join prompts with "
            "Conditioning (Concat) or write them as one text."
        )
    features, extras = conditioning[0]
    if extras:
        raise SettingsError(
            f"{name} carries {', '.join(map(str, extras))}, which this sampler does not support: "
            "remove the node that sets it."
        )
    if not isinstance(features, Tensor) or features.ndim != 3 or features.shape[::2] != (1, width):
        raise SettingsError(
            f"{name} came as {_shape(features)}, but this model's text features have the shape "
            f"(1, tokens, {width}): make them with this pack's text encode node, from the same model."
        )
    return features[0]


def to_cells(mask: Tensor, count: int, cells: tuple[int, int]) -> Tensor:
    """Return a LATENT's noise mask as B 1 h w of 0 and 1: a latent is redrawn where any of it is marked.

    Raises SettingsError.
    """
    planes = mask.detach().float().cpu().reshape(-1, 1, *mask.shape[-2:])
    if len(planes) not in (1, count):
        raise SettingsError(
            f"{len(planes)} noise masks came for {count} latents: connect one mask, or one per latent."
        )
    enlarged = min(planes.shape[-2] / cells[0], planes.shape[-1] / cells[1]) < 1
    resized = F.interpolate(planes, cells) if enlarged else F.adaptive_max_pool2d(planes, cells)
    return (resized >= 0.5).float().expand(count, -1, -1, -1)


def _check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[3] not in (3, 4) or not len(image):
        raise SettingsError(f"The image came as {_shape(image)}, but an IMAGE is B x height x width x 3.")


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
