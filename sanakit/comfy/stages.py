"""The stages of drawing as a node each: text to conditioning, noise to latents, latents to image and back.

Shapes: B images, C h w latents, H W pixels, L tokens, E text width.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sanakit.comfy.control import check_shapes, controls_of, steered, without_controls
from sanakit.comfy.host import NodeProgress, stop_if_interrupted
from sanakit.comfy.tensors import (
    Conditioning,
    Latent,
    from_latents,
    from_pixels,
    to_cells,
    to_features,
    to_latents,
    to_pixels,
)
from sanakit.comfy.widgets import (
    BATCH_SIZE,
    CATEGORY,
    GUIDANCE,
    GUIDANCE_KIND,
    MODEL,
    NEGATIVE_PROMPT,
    PROMPT,
    SEED,
    SOLVER,
    STEPS,
    settings,
    side,
    strength_widget,
)
from sanakit.errors import SettingsError
from sanakit.pipelines.control import Conditions, check_controls
from sanakit.pipelines.denoise import Batch, begin
from sanakit.pipelines.memory import MemoryPlan, memory_limit, stage
from sanakit.pipelines.request import check_request, make_sampler
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.prompt_weights import unread_weights


class EncodeText:
    """Prompt and negative prompt to text features."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Encodes a prompt, with the instruction that SANA was trained with, and a negative one without."
    )
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        return {"required": {"model": MODEL, "prompt": PROMPT, "negative_prompt": NEGATIVE_PROMPT}}

    def encode(
        self, model: TextToImage, prompt: str, negative_prompt: str
    ) -> tuple[Conditioning, Conditioning]:
        """Return both conditionings; a prompt that was cut is warned of (UserWarning)."""
        stop_if_interrupted()
        request = check_request(model.spec, prompt, negative_prompt)
        plan = model.plan(request)
        with stage(model.text_encoder.model, plan, model.device):
            features, notes = model.encode([prompt], [negative_prompt], plan, request.dialect)
        for note in dict.fromkeys([*unread_weights([prompt, negative_prompt]), *notes]):
            warnings.warn(note, stacklevel=2)
        negative, positive = ([[text[None].cpu(), {}]] for text in features)
        return positive, negative


class SampleLatents:
    """Text features, and noise or a latent to start from, to latents."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Draws latents. Without an input latent it starts from noise of this width and height."
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        text = "From SANA text encode with the same model."
        start_from = "Latent to start from; it sets size and batch. Its noise mask marks what is redrawn."
        tip = "For an input latent: 0 keeps it, 1 redraws it."
        return {
            "required": {
                "model": MODEL,
                "positive": ("CONDITIONING", {"tooltip": text}),
                "negative": ("CONDITIONING", {"tooltip": text}),
                "seed": SEED,
                "steps": STEPS,
                "guidance": GUIDANCE,
                "solver": SOLVER,
                "width": side("Width"),
                "height": side("Height"),
                "batch_size": BATCH_SIZE,
                "strength": strength_widget(1.0, tip),
            },
            "optional": {
                "latent": ("LATENT", {"tooltip": start_from}),
                "guidance_kind": GUIDANCE_KIND,
            },
        }

    def sample(
        self,
        model: TextToImage,
        positive: Conditioning,
        negative: Conditioning,
        seed: int,
        steps: int,
        guidance: float,
        solver: str,
        width: int,
        height: int,
        batch_size: int,
        strength: float,
        latent: Latent | None = None,
        guidance_kind: str = "",
    ) -> tuple[Latent]:
        """Draw, with a preview after each step; sizes do not snap to bins.

        Raises SettingsError, SizeError, NumericsError or MemoryLimitError.
        """
        stop_if_interrupted()
        spec, scaling = model.spec, model.autoencoder.config.scaling_factor
        known = None
        if latent is not None:
            known = to_latents(latent, spec.latent_channels, scaling)
            batch_size = len(known)
            height, width = (cells * spec.compression for cells in known.shape[2:])
        elif strength != 1:
            raise SettingsError(
                f"strength = {strength} needs an input latent: connect one, or set strength to 1."
            )
        controls = controls_of(positive, negative, guided=False)
        model, images = steered(model, controls)
        request = check_request(
            model.spec,
            "",
            width=width or None,
            height=height or None,
            num_images=batch_size,
            seed=seed,
            output="latent",
            binned=False,
            control=images,
            **settings(steps, guidance, solver, guidance_kind),
        )
        controls_of(positive, negative, guided=request.guided)
        drawn = request.cells.height * spec.compression, request.cells.width * spec.compression
        check_shapes(controls, drawn, spec.compression)
        name = str(request.metadata[0]["solver"])
        sampler = make_sampler(name, request.steps, model.settings.shift, strength, spec.whole_times)
        if sampler is None and latent is not None:  # strength 0
            return (latent,)
        if images:  # a range is of the steps that are done, fewer at less strength
            steering, _ = check_controls(images, len(images), drawn, sampler)
            request = replace(request, conditions=Conditions(control=steering))
        text_width = model.transformer.config.text_width
        features = [to_features(without_controls(positive), text_width, "positive")]
        if request.guided:
            features = [to_features(without_controls(negative), text_width, "negative"), *features]
        features = [text.to(model.device) for text in features]
        mask = None if latent is None else latent.get("noise_mask")
        cells = request.cells.height, request.cells.width
        masks = None if mask is None else to_cells(mask, batch_size, cells)
        plan = model.plan(request)
        transformer = model.transformer
        if controls:
            with stage(model.autoencoder, plan, model.device):
                transformer = model.steered(request.conditions)
        with stage(transformer, plan, model.device):
            request = replace(request, solver=sampler)
            samples = begin(transformer, request, features, known, masks)
            latents = _denoise(model, Batch(transformer, samples), plan)
        return ({**(latent or {}), **from_latents(latents, scaling)},)


class DecodeLatents:
    """Latents to an image."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Decodes latents with the model's own autoencoder."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        return {"required": {"model": MODEL, "latent": ("LATENT",)}}

    def decode(self, model: TextToImage, latent: Latent) -> tuple[Tensor]:
        """Return the image. Raises SettingsError, NumericsError or MemoryLimitError."""
        stop_if_interrupted()
        scaling = model.autoencoder.config.scaling_factor
        return (from_pixels(model.decode(to_latents(latent, model.spec.latent_channels, scaling))),)


class EncodeImage:
    """An image to latents."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Encodes an image with the model's own autoencoder; sides are cropped to multiples of 32 px."
    )
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        return {"required": {"model": MODEL, "image": ("IMAGE",)}}

    def encode(self, model: TextToImage, image: Tensor) -> tuple[Latent]:
        """Return the latents. Raises SettingsError, SizeError or MemoryLimitError."""
        stop_if_interrupted()
        autoencoder = model.autoencoder
        pixels = to_pixels(image, model.spec.compression)
        request = check_request(
            model.spec, "", width=pixels.shape[3], height=pixels.shape[2], output="latent", binned=False
        )
        limit = memory_limit("encoding the image: take a smaller size")
        with stage(autoencoder, model.plan(request), model.device), limit, torch.no_grad():
            latents = [
                autoencoder.encode(one.to(model.device, autoencoder.dtype)).float().cpu()
                for one in pixels.split(1)
            ]
        return ({"samples": torch.cat(latents)},)


def _denoise(model: TextToImage, batch: Batch, plan: MemoryPlan) -> Tensor:
    """Take all steps, and return the latents B C h w."""
    state = batch.samples[0].state
    progress = NodeProgress()
    while not state.done:
        batch.step(plan.after_block)
        state = batch.samples[0].state
        model.check_finite(batch.latents, f"Step {state.index} of {state.total}", model.transformer.dtype)
        progress.show(state.index, state.total, lambda: model.preview(batch.clean[0]))
    return batch.latents
