"""Variations of an image: images of the same prompt that begin from it, with new seeds.

They are made by image to image (SDEdit, arXiv:2108.01073) rather than by mixing the noise of two seeds. On
pocket both keep the layout, and mixed noise washes its colours out; image to image also begins from edited
and enlarged images, and `sana edit` repeats it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import Metadata
from sanakit.pipelines.request import ModelSpec, steps_done
from sanakit.serve.web.settings import Wish
from sanakit.serve.web.studio import Edit

SUBTLE, STRONG = 0.5, 0.8  # strengths: on pocket other details, and other colours and shapes
NUM_VARIATIONS = 4  # images
_MOST_SEED = 2**32


def variation_of(
    metadata: Metadata, image: Image.Image, spec: ModelSpec, adapters: Mapping[str, float], strength: float
) -> tuple[Wish, Edit]:
    """Return what draws variations of an image. metadata: its settings. strength: SUBTLE or STRONG.

    spec: of the model that draws. adapters: weights by name. Raises SettingsError where one step is all.
    """
    own, steps = spec.settings, int(metadata["steps"])
    if spec.guidance_embed and steps_done(steps, strength) == steps:  # of so few steps that would be all
        if steps == 1:
            raise SettingsError(f"{own.name} draws in one step, which keeps nothing: set more steps.")
        strength = (steps - 1) / steps
    wish = Wish(
        model=own.name,
        prompt=str(metadata["prompt"]),
        negative_prompt=str(metadata.get("negative_prompt", "")),
        prompt_weights=bool(metadata.get("prompt_weights", False)),
        width=image.width,
        height=image.height,
        steps=steps,
        guidance=float(metadata.get("guidance", own.guidance)),
        guidance_kind=str(metadata.get("guidance_kind", own.guidance_kind)),
        solver=str(metadata.get("solver", own.solver)),
        seed=str(secrets.randbelow(_MOST_SEED)),
        num_images=NUM_VARIATIONS,
        adapters=adapters,
    )
    return wish, Edit(image=image, strength=strength)
