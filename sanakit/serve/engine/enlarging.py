"""Enlarging images that were drawn: the server's way to what `sana generate --upscale` does.

The model that drew an image redraws it larger where it learned that size; else Lanczos enlarges it alone,
which is told.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from sanakit.images.image import Metadata
from sanakit.pipelines.request import ModelSpec, Request
from sanakit.pipelines.result import Result
from sanakit.pipelines.upscale.lanczos import checked_factor
from sanakit.pipelines.upscale.redraw import DETAILED, Enlargement, plan_enlargement

if TYPE_CHECKING:
    from sanakit.serve.engine.engine import Engine


class Enlargements:
    """The images of a result, enlarged one after the other.

    engine: which drew them, and redraws them where a model does. factor: of their sides. While `request`
    gives one, draw it and hand its result to `take`; then `result` has all images. All three block.
    Raises SettingsError for a factor that is not above 1 and up to 8.
    """

    def __init__(self, engine: Engine, drawn: Result, factor: float) -> None:
        self._engine, self._drawn, self._factor = engine, drawn, checked_factor(factor)
        self._planned: Enlargement | None = None
        self._larger: list[Result] = []

    def request(self) -> Request | None:
        """Return what is to be drawn next, the same one until it is taken; None: nothing more.

        Raises SettingsError for too many pixels.
        """
        while self._planned is None and len(self._larger) < len(self._drawn.images):
            plan = self._plan(len(self._larger))
            if plan.request is None:
                self._larger.append(plan.result)
            else:
                self._planned = plan
        return None if self._planned is None else self._planned.request

    def take(self, redrawn: Result) -> None:
        """Take the result of the request."""
        assert self._planned is not None
        self._larger.append(self._planned.finished(redrawn))
        self._planned = None

    def result(self) -> Result:
        """Return the result with its images enlarged."""
        notes = [*self._drawn.warnings, *(note for one in self._larger for note in one.warnings)]
        return replace(
            self._drawn,
            images=[image for one in self._larger for image in one.images],
            metadata=[metadata for one in self._larger for metadata in one.metadata],
            warnings=[*dict.fromkeys(notes)],
        )

    def _plan(self, number: int) -> Enlargement:
        image, made = self._drawn.images[number], self._drawn.metadata[number]
        assert isinstance(image, Image.Image)  # of the output "pil"
        spec = replace(self._engine.specs[str(made["model"])], adapters=str(made.get("adapters", "")))
        with self._engine.decoding.turn(round(image.width * image.height * self._factor * self._factor)):
            return enlargement_of(spec, image, made, self._factor)


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


def _note(spec: ModelSpec, image: Image.Image, factor: float) -> str:
    side = spec.sample_size * spec.compression
    remedy = "a smaller factor has detail" if side >= DETAILED else "a model of 2K or 4K draws detail"
    size = f"{round(image.width * factor)}x{round(image.height * factor)}"
    return f"Lanczos enlarged it alone, as {spec.settings.name} did not learn to draw {size}: {remedy}."
