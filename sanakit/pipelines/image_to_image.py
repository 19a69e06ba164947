"""Image and prompt to image: the image is partly noised, then denoised (SDEdit).

Source: Meng et al. 2022 (arXiv:2108.01073); `strength` as in diffusers' image-to-image pipelines: of all
steps the last `strength` are done, from the image's latents noised to where those begin.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, Self, Unpack

import torch
from PIL import Image

from sanakit.adapters.pipeline import AdapterChoices
from sanakit.arguments import check_arguments
from sanakit.pipelines.request import DrawSettings, ModelSpec, check_request, plain, steps_done
from sanakit.pipelines.result import Result, Step, result_of
from sanakit.pipelines.source import make_source
from sanakit.pipelines.text_to_image import TextToImage

STRENGTH = 0.6
Strength = float | Literal["auto"]


def chosen_strength(spec: ModelSpec, strength: Strength = "auto", steps: int | None = None) -> float:
    """Return the strength to redraw an image with. strength: "auto": 0.6, or less where that is all steps.

    Of the few steps of a SANA-Sprint model, 0.6 are soon all, which would forget the image: then the first is
    left out. steps: of the call; None: the model's own.
    """
    if strength != "auto":
        return strength
    steps = spec.settings.steps if steps is None else plain(steps)
    if isinstance(steps, int) and steps > 1 and steps_done(steps, STRENGTH) == steps:
        return (steps - 1) / steps
    return STRENGTH


class FromImage:
    """A task that starts from an image. pipe: loaded with `encoder=True`."""

    def __init__(self, pipe: TextToImage) -> None:
        self.pipe = pipe

    def __repr__(self) -> str:
        """Tell what the pipeline has loaded."""
        return f"{type(self).__name__} by {self.pipe!r}"

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        memory: str | int = "auto",
        plan: str | None = None,
        adapters: AdapterChoices = (),
        control_model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        **unknown: object,
    ) -> Self:
        """Load a model; all as for `TextToImage.from_pretrained`."""
        check_arguments(unknown)
        return cls(
            TextToImage.from_pretrained(
                path,
                device=device,
                dtype=dtype,
                memory=memory,
                plan=plan,
                adapters=adapters,
                encoder=True,
                control_model=control_model,
            )
        )


class ImageToImage(FromImage):
    """Redraws an image as a prompt says."""

    def __call__(
        self,
        image: Image.Image,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        strength: Strength = "auto",
        width: int | None = None,
        height: int | None = None,
        **settings: Unpack[DrawSettings],
    ) -> Result:
        """Draw images that start from one; each is the same alone and in a batch.

        image: of any size and mode, turned as its EXIF data say, laid on white where it is transparent.
        strength: 0 passes it through the autoencoder, 1 draws as text to image does from the same noise;
        "auto": 0.6, or less where that is all of few steps.
        width, height: pixels of the result; None: the image's own, drawn at about the model's own size and
        scaled back. settings: as for `TextToImage.__call__`; "pt" and "latent" come in the drawn size.
        Raises as `TextToImage.__call__` does.
        """
        stream = self.stream(
            image, prompt, negative_prompt, strength=strength, width=width, height=height, **settings
        )
        return result_of(deque(stream, maxlen=1).pop())

    def stream(
        self,
        image: Image.Image,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        strength: Strength = "auto",
        width: int | None = None,
        height: int | None = None,
        **settings: Unpack[DrawSettings],
    ) -> Iterator[Step]:
        """Draw as `__call__` does, step by step, as `TextToImage.stream` does."""
        spec, binned = self.pipe.spec, settings.get("binned", True)
        strength = chosen_strength(spec, strength, settings.get("steps"))
        source = make_source(spec, image, strength, width=width, height=height, binned=binned)
        return self.pipe.draw(check_request(spec, prompt, negative_prompt, source=source, **settings))
