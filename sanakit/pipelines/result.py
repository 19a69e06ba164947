"""The steps of a drawing, the check of their numbers, and the result that the last one carries.

Shapes: B images, C h w latents, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import NumericsError, SettingsError
from sanakit.images.image import Metadata, save, to_pil
from sanakit.images.notebook import html_of, png_of
from sanakit.whole import numbered

Output = Literal["pil", "pt", "latent"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The images of one call, prompt after prompt, and how they were made."""

    images: list[Image.Image] | Tensor  # "pil"; "pt": B 3 H W in [-1, 1]; "latent": B C h w
    seeds: list[int]  # one per image; empty where the caller gave the noise
    timings: dict[str, float]  # seconds for text, denoise, decode
    metadata: list[Metadata]  # one per image: all it takes to draw it again; `save` writes it into files
    warnings: list[str]  # what the user should know, such as a prompt that was cut

    def save(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write each image with its settings, as `images.image.save` does; return the paths.

        path: its suffix says the format; several images get -1, -2, ... in their names.
        Raises OutputError, or SettingsError for latents.
        """
        images = self._pictures()
        paths = numbered(Path(path).expanduser(), len(images))
        each = zip(images, paths, self.metadata, strict=True)
        return [save(image, name, settings) for image, name, settings in each]

    def _repr_html_(self) -> str | None:
        """Return the images as a notebook shows them; None of latents."""
        return None if self._is_latent else html_of(self._pictures(), self.metadata)

    def _repr_png_(self) -> bytes | None:
        """Return the same where a notebook shows no HTML."""
        return png_of(self._pictures()) if self.metadata and not self._is_latent else None

    def _pictures(self) -> list[Image.Image]:
        if self._is_latent:
            raise SettingsError("The result holds latents: pass them to `decode`, or draw without output.")
        return self.images if isinstance(self.images, list) else to_pil(self.images)

    @property
    def _is_latent(self) -> bool:
        return isinstance(self.images, Tensor) and self.images.shape[1] != 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One finished step of `TextToImage.stream`; stop iterating and the rest is never computed."""

    index: int  # 1 is the first
    total: int
    latents: Tensor  # B C h w, float32: where the images stand; after the last step the clean latents
    clean: Tensor  # B C h w, float32: the clean latents that were in sight at this step
    draw: Callable[[Tensor], Image.Image] = field(repr=False)  # latents C h w of one image, small

    @property
    def result(self) -> Result | None:
        """Return the result, which the last step alone has."""
        return None

    def preview(self, image: int = 0) -> Image.Image:
        """Show what image number `image` will be: a linear map of `clean`, 8 px a latent, no decoder.

        The map is fitted at a pipeline's first preview, which takes as long as decoding 512 px.
        """
        return self.draw(self.clean[image])


@dataclass(frozen=True, kw_only=True, slots=True)
class LastStep(Step):
    """The step after which the images were decoded."""

    drawn: Result

    @property
    def result(self) -> Result:
        """Return the images and how they were made."""
        return self.drawn


def result_of(last: Step) -> Result:
    """Return the result of the last step."""
    assert isinstance(last, LastStep), "a drawing ends with its last step"
    return last.result


def check_finite(values: Tensor, what: str, dtype: torch.dtype, rule: str, usual: float = 4.5) -> None:
    """Raise NumericsError, with a remedy, if values computed in a dtype are not all finite.

    rule: the model's 16-bit dtype, see `ModelSettings.precision`. usual: its guidance.
    """
    if bool(torch.isfinite(values).all()):
        return
    remedy = f"the weights are damaged (download them again), or guidance far too high ({usual:g} is usual)"
    if dtype != torch.float32:
        remedy = f'load the model with dtype="float32"; its 16-bit rule is "{rule}"'
    raise NumericsError(f"{what} gave NaN or infinity, computed in {dtype}: {remedy}.")
