"""Enlarging images that were drawn: the server's way to what `sana generate --upscale` does.

The model that drew an image redraws it larger where it learned that size; else Lanczos enlarges it alone,
which is told.
"""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from sanakit.images.image import Metadata
from sanakit.pipelines.request import ModelSpec
from sanakit.pipelines.result import Result
from sanakit.pipelines.upscale.redraw import DETAILED, Enlargement, plan_enlargement


def enlargement_of(spec: ModelSpec, image: Image.Image, made: Metadata, factor: float) -> Enlargement:
    """Check how an image is enlarged, by its own prompt and seed. made: its settings.

    spec: of the model that redraws it, with the adapters for that. factor: of its sides, above 1, up to 8.
    Raises SettingsError for that or too many pixels.
    """
    negative = "" if spec.guidance_embed else str(made.get("negative_prompt", ""))  # of Sprint models: none
    plan = plan_enlargement(
        spec,
        image,
        str(made["prompt"]),
        negative,
        factor=factor,
        seed=int(made["seed"]) if "seed" in made else None,
        prompt_weights=bool(made.get("prompt_weights", False)),
    )
    (planned,) = plan.result.metadata
    kept = {name: planned[name] for name in ("upscale", "upscale_strength")}
    kept["upscale"] = factor * float(made.get("upscale", 1.0))  # enlarged before
    if made.get("model") != spec.settings.name:
        kept["upscale_model"] = spec.settings.name
    told = [_note(spec, image, factor) for _ in plan.result.warnings]
    return replace(plan, result=replace(plan.result, metadata=[{**made, **kept}], warnings=told))


def enlarged_result(result: Result, larger: list[Result]) -> Result:
    """Return a result with its images enlarged. larger: the result of each, in order."""
    notes = [*result.warnings, *(note for one in larger for note in one.warnings)]
    return replace(
        result,
        images=[image for one in larger for image in one.images],
        metadata=[metadata for one in larger for metadata in one.metadata],
        warnings=[*dict.fromkeys(notes)],
    )


def _note(spec: ModelSpec, image: Image.Image, factor: float) -> str:
    side = spec.sample_size * spec.compression
    remedy = "a smaller factor has detail" if side >= DETAILED else "a model of 2K or 4K draws detail"
    size = f"{round(image.width * factor)}x{round(image.height * factor)}"
    return f"Lanczos enlarged it alone, as {spec.settings.name} did not learn to draw {size}: {remedy}."
