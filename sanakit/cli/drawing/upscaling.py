"""`sana generate --upscale`: the drawn images, enlarged one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.pipelines.result import Result, Step
    from sanakit.pipelines.text_to_image import TextToImage


@dataclass(frozen=True, slots=True)
class Enlarging:
    """How images are enlarged: by which factor, by which model (None: the one that drew), how strongly."""

    factor: float
    model: str | None
    strength: float | None


def checked(factor: float | None, model: str | None, strength: float | None) -> Enlarging | None:
    """Return what --upscale and its options ask for; None: nothing. Raises SettingsError."""
    from sanakit.pipelines.source import checked_strength
    from sanakit.pipelines.upscale.lanczos import checked_factor

    if factor is None:
        given = {"--upscale-model": model, "--upscale-strength": strength}
        if option := next((name for name, value in given.items() if value is not None), ""):
            raise SettingsError(f"{option} needs a factor: give it with --upscale 2, or omit both.")
        return None
    return Enlarging(checked_factor(factor), model, None if strength is None else checked_strength(strength))


def enlarged(
    result: Result,
    pipe: TextToImage,
    how: Enlarging,
    loading: dict[str, Any],
    show: Callable[[Step], None],
) -> Result:
    """Return a drawn result with its images enlarged, each by its own prompt and seed.

    loading: as for `from_pretrained`, of a model that is loaded for it: adapters and ControlNets stay with
    the model that drew.
    """
    from sanakit.pipelines.result import result_of
    from sanakit.pipelines.upscale.redraw import Upscale

    task = Upscale(pipe)
    if how.model is not None:
        alone = {"adapters": (), "control_model": None}
        task = Upscale.from_pretrained(how.model, **{**_without_compile(loading), **alone})
    sprint = task.pipe.spec.guidance_embed  # takes no negative prompt
    images, metadata, told = [], [], list(result.warnings)
    for image, made in zip(result.images, result.metadata, strict=True):
        negative = "" if sprint else str(made["negative_prompt"])
        settings = {"seed": made["seed"], "prompt_weights": bool(made.get("prompt_weights"))}
        chosen = {"factor": how.factor, "strength": "auto" if how.strength is None else how.strength}
        step = None
        for step in task.stream(image, str(made["prompt"]), negative, **chosen, **settings):  # pyright: ignore
            show(step)
        assert step is not None
        larger = result_of(step)
        images += larger.images
        beside = {name: larger.metadata[0][name] for name in ("upscale", "upscale_strength")}
        metadata.append(
            made | beside | ({} if how.model is None else {"upscale_model": task.pipe.settings.name})
        )
        told += [note for note in larger.warnings if note not in told]
    return replace(result, images=images, metadata=metadata, warnings=told)


def _without_compile(loading: dict[str, Any]) -> dict[str, Any]:
    """Return how to load a model that draws a single image."""
    return {name: value for name, value in loading.items() if name != "compile"}
