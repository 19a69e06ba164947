"""Enlarge an image: Lanczos, noise to a strength, denoise by the prompt, and take the detail of that.

It is image to image at the larger size: encoder, transformer and decoder work in exact bands within the
memory plan, not in tiles. Only models of 2048 px and more do so by default, at sizes that they learned.
Measured on pocket, redrawing is worse than Lanczos at every strength (`benchmarks/upscale.py`).
Source: SDEdit (arXiv:2108.01073), for detail `lanczos.py`.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Unpack

import torch
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import MIN_SIDE
from sanakit.images.opening import flatten
from sanakit.pipelines.image_to_image import FromImage
from sanakit.pipelines.request import ModelSpec, Request, SampleSettings, check_request
from sanakit.pipelines.result import LastStep, Result, Step, result_of
from sanakit.pipelines.source import checked_strength, make_source
from sanakit.pipelines.upscale.lanczos import LANCZOS, checked_factor, enlarged_size, with_detail

STRENGTH = 0.3  # of models that redraw by default; of the published ones not measured here
DETAILED = 2048  # pixels: side of the smallest models that were trained to draw fine detail
LEARNED = 0.8  # share of the pixels of a size that a model's nearest one has, if it learned that size

UpscaleStrength = float | Literal["auto"]


class Upscale(FromImage):
    """Enlarges images by a model's detail, or by Lanczos where the model would do worse."""

    def __call__(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str = "",
        *,
        factor: float = 2.0,
        strength: UpscaleStrength = "auto",
        **settings: Unpack[SampleSettings],
    ) -> Result:
        """Enlarge one image.

        image: as for `ImageToImage.__call__`. prompt: what it shows. factor: of its sides, above 1, up to 8.
        strength: in [0, 1], how much of the enlarged image is forgotten before it is redrawn; 0 is Lanczos
        alone. "auto": 0.3 where the model draws the larger size well, else 0, which the result tells.
        settings: as for `TextToImage.__call__`, of one image.
        Raises as `TextToImage.__call__` does.
        """
        stream = self.stream(image, prompt, negative_prompt, factor=factor, strength=strength, **settings)
        return result_of(deque(stream, maxlen=1).pop())

    def stream(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str = "",
        *,
        factor: float = 2.0,
        strength: UpscaleStrength = "auto",
        **settings: Unpack[SampleSettings],
    ) -> Iterator[Step]:
        """Draw as `__call__` does, step by step; without redrawing there is one step, the last."""
        plan = plan_enlargement(
            self.pipe.spec, image, prompt, negative_prompt, factor=factor, strength=strength, **settings
        )
        if plan.request is None:
            return _plain(plan.result)
        return self._redrawn(plan, self.pipe.draw(plan.request))

    def _redrawn(self, plan: Enlargement, steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            if (drawn := step.result) is None:
                yield step
                continue
            given = plan.finished(drawn)
            facts = {"index": step.index, "total": step.total, "latents": step.latents, "clean": step.clean}
            yield LastStep(**facts, draw=step.draw, drawn=given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Enlargement:
    """An image to enlarge, checked. request: what redraws it; None: nothing. result: by Lanczos alone."""

    image: Image.Image  # RGB
    request: Request | None
    result: Result

    def finished(self, drawn: Result) -> Result:
        """Return the image with the detail of a drawing of it. drawn: the result of the request."""
        ((picture,), (plain,)) = drawn.images, self.result.images
        assert isinstance(picture, Image.Image)  # of the output "pil"
        assert isinstance(plain, Image.Image)
        picture = picture if picture.size == plain.size else picture.resize(plain.size, LANCZOS)
        images = [with_detail(self.image, picture)]
        return replace(self.result, images=images, timings=drawn.timings, warnings=drawn.warnings)


def plan_enlargement(
    spec: ModelSpec,
    image: Image.Image,
    prompt: str = "",
    negative_prompt: str = "",
    *,
    factor: float = 2.0,
    strength: UpscaleStrength = "auto",
    **settings: Unpack[SampleSettings],
) -> Enlargement:
    """Check how a model of this spec enlarges an image; all as for `Upscale.__call__`, without weights."""
    factor = checked_factor(factor)
    for name, usual in {"num_images": 1, "output": "pil", "binned": True, "latents": None}.items():
        if settings.get(name, usual) != usual:
            raise SettingsError(f"{name} is not a setting of upscaling: enlarge one image at a time.")
    image = flatten(image)
    size = enlarged_size(image.size, factor)
    learned = redraws(spec, size)
    chosen = (STRENGTH if learned else 0.0) if strength == "auto" else checked_strength(strength)
    source = None
    if chosen:
        unit = spec.compression  # where the size was not learned: the exact one, in whole latents
        wide, high = size if learned else (max(MIN_SIDE, round(side / unit) * unit) for side in size)
        source = make_source(spec, image, chosen, width=wide, height=high, binned=learned)
    request = check_request(spec, prompt, negative_prompt, source=source, **settings)
    upscaled = {"upscale": factor, "upscale_strength": chosen}
    kept = {name: value for name, value in request.metadata[0].items() if name != "strength"}
    told = [lanczos_note(spec, size)] if not chosen and strength == "auto" else []
    result = Result(
        images=[image.resize(size, LANCZOS)],
        seeds=request.seeds,
        timings={},
        metadata=[kept | {"width": image.width, "height": image.height} | upscaled],
        warnings=told,
    )
    return Enlargement(image=image, request=request if chosen else None, result=result)


def redraws(spec: ModelSpec, size: tuple[int, int]) -> bool:
    """Return whether a model redraws images of a size, width and height in pixels, by default."""
    if spec.sample_size * spec.compression < DETAILED:
        return False
    try:
        height, width = spec.drawn_size(*size)
    except SettingsError:  # more than any model draws
        return False
    return height * width >= LEARNED * size[0] * size[1]


def lanczos_note(spec: ModelSpec, size: tuple[int, int]) -> str:
    """Return what is told where Lanczos alone enlarges an image."""
    remedy = "a model of 2K or 4K draws detail (--upscale-model sana-1.6b-2k)"
    if spec.sample_size * spec.compression >= DETAILED:
        remedy = "choose a smaller factor for detail"
    asked = f"{size[0]}x{size[1]}"
    return f"{spec.settings.name} did not learn to draw {asked}, so Lanczos enlarges alone: {remedy}."


def _plain(result: Result) -> Iterator[Step]:
    for note in result.warnings:
        warnings.warn(note, stacklevel=3)
    none = torch.empty(0, dtype=torch.float32, device="cpu")
    (image,) = result.images
    assert isinstance(image, Image.Image)
    yield LastStep(index=1, total=1, latents=none, clean=none[None], draw=lambda _: image, drawn=result)
