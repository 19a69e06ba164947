"""Whole tasks as one node each: a prompt, or an image and a prompt, to an image.

Shapes: B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from PIL import Image
from torch import Tensor

from sanakit.comfy.control import AppliedControl, check_shapes, steered
from sanakit.comfy.host import NodeProgress, stop_if_interrupted
from sanakit.comfy.tensors import from_images, to_images, to_masks
from sanakit.comfy.widgets import (
    BATCH_SIZE,
    CATEGORY,
    CONTROL,
    GUIDANCE,
    GUIDANCE_KIND,
    MODEL,
    NEGATIVE_PROMPT,
    OWN_STRENGTH,
    PROMPT,
    PROMPT_WEIGHTS,
    SEED,
    SOLVER,
    STEPS,
    settings,
    side,
    strength_widget,
)
from sanakit.pipelines.image_to_image import ImageToImage, Strength
from sanakit.pipelines.inpaint import MAX_MARGIN, Inpaint, expand
from sanakit.pipelines.result import Step
from sanakit.pipelines.source import FEATHER, MAX_FEATHER
from sanakit.pipelines.text_to_image import TextToImage

DRAWING = {"seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "solver": SOLVER}
# Last: saved workflows hold widgets by position, and those that were saved before these run as they did.
MORE = {"guidance_kind": GUIDANCE_KIND, "control": CONTROL, "prompt_weights": PROMPT_WEIGHTS}


class DrawText:
    """A prompt to images."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Draws a prompt: text encode, sampler and decode in one node."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        size = {"width": side("Width"), "height": side("Height"), "batch_size": BATCH_SIZE}
        text = {"prompt": PROMPT, "negative_prompt": NEGATIVE_PROMPT}
        return {"required": {"model": MODEL, **text, **DRAWING, **size}, "optional": MORE}

    def draw(
        self,
        model: TextToImage,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        solver: str,
        width: int,
        height: int,
        batch_size: int,
        guidance_kind: str = "",
        control: tuple[AppliedControl, ...] = (),
        prompt_weights: bool = False,
    ) -> tuple[Tensor]:
        """Draw as `TextToImage` does, published models in their bins. Raises as that does."""
        model, images = steered(model, control)
        chosen = settings(steps, guidance, solver, guidance_kind)
        if width or height:
            own = model.spec.settings
            check_shapes(control, (height or own.height, width or own.width), model.spec.compression)
        elif images:
            across, down = model.spec.size_like(images[0].image)
            check_shapes(control, (down, across), model.spec.compression)
        stream = model.stream(
            prompt,
            negative_prompt,
            width=width or None,
            height=height or None,
            seed=seed,
            num_images=batch_size,
            control=images,
            prompt_weights=prompt_weights,
            **chosen,
        )
        return (_drawn([stream]),)


class RedrawImage:
    """Images and a prompt to images."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Redraws an image; strength sets how much. The result has the image's size."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        tip = "0 only encodes and decodes it, 1 ignores it. -1: 0.6, or less where that is all of few steps."
        text = {"prompt": PROMPT, "negative_prompt": NEGATIVE_PROMPT}
        own = {"strength": strength_widget(OWN_STRENGTH, tip)}
        required = {"model": MODEL, "image": ("IMAGE",), **text, **DRAWING, **own}
        return {"required": required, "optional": MORE}

    def draw(
        self,
        model: TextToImage,
        image: Tensor,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        solver: str,
        strength: float,
        guidance_kind: str = "",
        control: tuple[AppliedControl, ...] = (),
        prompt_weights: bool = False,
    ) -> tuple[Tensor]:
        """Draw image i from seed + i. Raises as `ImageToImage` does."""
        pictures = to_images(image)
        model, images = steered(model, control)
        check_shapes(control, (image.shape[1], image.shape[2]), model.spec.compression)
        pipe, chosen = ImageToImage(model), settings(steps, guidance, solver, guidance_kind)
        share: Strength = "auto" if strength == OWN_STRENGTH else strength
        own = {"strength": share, "control": images}
        streams = [
            pipe.stream(
                *(picture, prompt, negative_prompt),
                seed=seed + i,
                prompt_weights=prompt_weights,
                **own,
                **chosen,
            )
            for i, picture in enumerate(pictures)
        ]
        return (_drawn(streams),)


class InpaintImage:
    """Images, masks and a prompt to images that differ only where the mask is."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Redraws an image where the mask is 1; all other pixels stay unchanged."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        tip = "1 ignores the masked area; lower values stay closer to it."
        fade = "Width in pixels of the fade from old to new, inside the mask."
        text = {"prompt": PROMPT, "negative_prompt": NEGATIVE_PROMPT}
        own = {
            "strength": strength_widget(1.0, tip),
            "feather": ("INT", {"default": FEATHER, "min": 0, "max": MAX_FEATHER, "tooltip": fade}),
        }
        images = {"image": ("IMAGE",), "mask": ("MASK", {"tooltip": "1 = redraw."})}
        return {"required": {"model": MODEL, **images, **text, **DRAWING, **own}, "optional": MORE}

    def draw(
        self,
        model: TextToImage,
        image: Tensor,
        mask: Tensor,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        solver: str,
        strength: float,
        feather: int,
        guidance_kind: str = "",
        control: tuple[AppliedControl, ...] = (),
        prompt_weights: bool = False,
    ) -> tuple[Tensor]:
        """Draw image i from seed + i. Raises as `Inpaint` does."""
        pictures = to_images(image)
        masks = to_masks(mask, len(pictures), image.shape[1], image.shape[2])
        model, images = steered(model, control)
        check_shapes(control, (image.shape[1], image.shape[2]), model.spec.compression)
        pipe, chosen = Inpaint(model), settings(steps, guidance, solver, guidance_kind)
        own = {"strength": strength, "feather": feather, "control": images}
        streams = [
            pipe.stream(
                *(picture, marked, prompt, negative_prompt),
                seed=seed + i,
                prompt_weights=prompt_weights,
                **own,
                **chosen,
            )
            for i, (picture, marked) in enumerate(zip(pictures, masks, strict=True))
        ]
        return (_drawn(streams),)


class ExpandImage:
    """Images to larger canvases, and the mask of what is new: outpainting, with the inpaint node behind."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Adds pixels at the edges for SANA inpaint to draw. They repeat the image's edge until then."
    )
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        margin = ("INT", {"default": 0, "min": 0, "max": MAX_MARGIN, "step": 8, "tooltip": "Pixels to add."})
        return {
            "required": {
                "image": ("IMAGE",),
                "left": margin,
                "top": margin,
                "right": margin,
                "bottom": margin,
            }
        }

    def expand(self, image: Tensor, left: int, top: int, right: int, bottom: int) -> tuple[Tensor, Tensor]:
        """Return the canvases, and one mask for all. Raises as `pipelines.inpaint.expand` does."""
        canvases, masks = zip(
            *(expand(picture, left, top, right, bottom) for picture in to_images(image)), strict=True
        )
        return from_images(canvases), from_images(masks[:1])[..., 0]


def _drawn(streams: Sequence[Iterator[Step]]) -> Tensor:
    """Draw one after the other, on one progress bar, and return all their images as an IMAGE."""
    stop_if_interrupted()
    progress = NodeProgress()
    pictures: list[Image.Image] = []
    for i, stream in enumerate(streams):
        for step in stream:
            steps = max(step.total, 1)  # none at strength 0
            progress.show(i * steps + step.index, len(streams) * steps, step.preview)
            if step.result is not None:
                pictures += cast(list[Image.Image], step.result.images)  # the default output, "pil"
    return from_images(pictures)
