"""The page's endpoints for programs: functions that `gradio_client` calls by name.

They do the work of the page's buttons; the model's own settings hold where a value is left out. Images count
for the same login and lie in the same gallery. The components are hidden: Gradio describes an endpoint by
them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from sanakit.errors import SettingsError
from sanakit.images.image import MAX_SIDE, MIN_SIDE
from sanakit.images.opening import open_image
from sanakit.pipelines.control import MAX_SCALE
from sanakit.pipelines.upscale.lanczos import MOST as MOST_UPSCALE
from sanakit.pipelines.upscale.lanczos import checked_factor, enlarged_size
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.engine.steering import NamedControl
from sanakit.serve.http.openai_schema import MAX_SEED
from sanakit.serve.http.uploads import open_images
from sanakit.serve.web.messages import told
from sanakit.serve.web.page import Page
from sanakit.serve.web.panel import MOST_PROMPT
from sanakit.serve.web.settings import MOST_IMAGES, Wish, parse_whole
from sanakit.serve.web.steering import named
from sanakit.serve.web.studio import PAINTED, WHOLE, Edit, View

MOST_STEPS, MOST_GUIDANCE = 1000, 100.0  # of all models; the page's sliders end earlier
Answer = tuple[list[str], dict[str, Any]]  # PNG files; "images", the settings of each, and "warnings"
_STEERING = ("control", "control_net", "control_kind", "control_scale", "control_start", "control_end")
_SHARED = ("negative_prompt", "model", "steps", "guidance", "seed", "num_images", "prompt_weights")


class Endpoints:
    """The functions generate and edit."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def lay_out(self) -> None:
        """Make the hidden components inside the Blocks that are open, and tie the functions to them."""
        with gr.Column(visible=False):
            engine = self._page.engine
            fields = _fields(list(engine.specs))
            offered = _STEERING if any(engine.residence.controls.values()) else ()
            offered += ("adapters",) if any(engine.residence.adapters.values()) else ()
            offered += ("upscale",)
            answer: list[Any] = [gr.File(label="Files", file_count="multiple"), gr.JSON(label="Settings")]
            for function, own in (
                (self.generate, ("prompt", "width", "height")),
                (self.edit, ("image", "prompt", "mask", "strength")),
            ):
                gr.Button(function.__name__).click(
                    told(function, spelled=str),
                    None,
                    answer,
                    inputs_kwargs={name: fields[name] for name in (*own, *_SHARED, *offered)},
                    show_progress="hidden",
                    api_name=function.__name__,
                    concurrency_limit=None,  # the engine has the queue
                )

    async def generate(
        self,
        visitor: gr.Request,
        prompt: str,
        width: float | None = None,
        height: float | None = None,
        negative_prompt: str = "",
        model: str = "",
        steps: float | None = None,
        guidance: float | None = None,
        seed: float | None = None,
        num_images: float = 1,
        prompt_weights: bool = False,
        control: str | None = None,
        control_net: str = "",
        control_kind: str = "",
        control_scale: float | None = None,
        control_start: float | None = None,
        control_end: float | None = None,
        adapters: dict[str, float] | None = None,
        upscale: float | None = None,
    ) -> Answer:
        """Draw images from a prompt. Width and height are pixels; image i has the seed + i. Left out, size,
        steps and guidance are the model's own, and the seed is random. With prompt weights, (red:1.5) weighs
        these words. Control is an image that steers through the ControlNet of that name; its kind, scale,
        start and end are as for the API. Adapters are weights by name, such as {"ink": 0.8}. Upscale, above
        1 and up to 8, enlarges the sides of what was drawn, as the page's button does.
        """
        words, others = (prompt, negative_prompt, model), (steps, guidance, seed, num_images, prompt_weights)
        wish = replace(self._wish(*words, *others, size=(width, height)), adapters=_weights(adapters))
        told = (control_net, control_kind, control_scale, control_start, control_end)
        return await self._drawn(visitor, await self._steered(wish, control, *told), upscale=upscale)

    async def edit(
        self,
        visitor: gr.Request,
        image: str | None,
        prompt: str,
        mask: str | None = None,
        strength: float | None = None,
        negative_prompt: str = "",
        model: str = "",
        steps: float | None = None,
        guidance: float | None = None,
        seed: float | None = None,
        num_images: float = 1,
        prompt_weights: bool = False,
        control: str | None = None,
        control_net: str = "",
        control_kind: str = "",
        control_scale: float | None = None,
        control_start: float | None = None,
        control_end: float | None = None,
        adapters: dict[str, float] | None = None,
        upscale: float | None = None,
    ) -> Answer:
        """Redraw an image, PNG, JPEG or WebP, or the part of it where a mask of its size is transparent or,
        if nothing is, white. Strength: 0 keeps the image, 1 ignores it. Left out: 1 with a mask, else 0.6, or
        less where that is all of few steps. The rest is as for generate.
        """
        words, others = (prompt, negative_prompt, model), (steps, guidance, seed, num_images, prompt_weights)
        wish = replace(self._wish(*words, *others), adapters=_weights(adapters))
        if not image:
            raise SettingsError("The image is missing: an edit needs one to start from.")
        loop, threads = asyncio.get_running_loop(), self._page.engine.decoding.threads
        edit = await loop.run_in_executor(threads, self._edit, image, mask, strength)
        told = (control_net, control_kind, control_scale, control_start, control_end)
        return await self._drawn(visitor, await self._steered(wish, control, *told), edit, upscale=upscale)

    async def _steered(self, wish: Wish, file: str | None, net: str, *told: Any) -> Wish:
        """Return the wish with its control image, decoded, if there is one. Raises SettingsError."""
        if bool(file) != bool(net):
            missing = "control_net, the name of a ControlNet" if file else "control, an image"
            raise SettingsError(f"{missing}, is missing: send both, or neither.")
        if not file:
            return wish
        loop, decoding = asyncio.get_running_loop(), self._page.engine.decoding

        def opened() -> NamedControl:
            width, height = header_size(file)
            with decoding.turn(width * height):
                return named(net, open_image(Path(file), "The control image"), *told)

        return replace(wish, control=[await loop.run_in_executor(decoding.threads, opened)])

    def _wish(
        self,
        prompt: str,
        negative_prompt: str,
        model: str,
        steps: float | None,
        guidance: float | None,
        seed: float | None,
        num_images: float | None,
        prompt_weights: bool,
        size: tuple[float | None, float | None] = (None, None),
    ) -> Wish:
        """Return what is asked for, completed with the model's own settings. Raises SettingsError."""
        own = self._page.engine.specs[model].settings
        width, height = size
        return Wish(
            model=model,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=own.width if width is None else parse_whole("width", width),
            height=own.height if height is None else parse_whole("height", height),
            steps=own.steps if steps is None else parse_whole("number of steps", steps),
            guidance=own.guidance if guidance is None else guidance,
            guidance_kind=own.guidance_kind,
            solver=own.solver,
            seed=str(secrets.randbelow(2**32) if seed is None else parse_whole("seed", seed)),
            num_images=parse_whole("number of images", num_images),
            prompt_weights=prompt_weights,
        )

    def _edit(self, image: str, mask: str | None, strength: float | None) -> Edit:
        """Decode the files, and mark what is redrawn by the API's rule. Raises SettingsError, SizeError."""
        width, height = header_size(image)
        with self._page.engine.decoding.turn(width * height), ExitStack() as files:
            opened = [files.enter_context(open(path, "rb")) if path else None for path in (image, mask)]
            assert opened[0] is not None
            sources = open_images(opened[0], opened[1])
        marked = sources.get("mask")
        what = WHOLE if marked is None else PAINTED
        return Edit(image=sources["image"], mask=marked, what=what, strength=strength)

    async def _drawn(
        self, visitor: gr.Request, wish: Wish, edit: Edit | None = None, *, upscale: float | None
    ) -> Answer:
        """Draw, and return the files and their settings. Raises SettingsError: what the page would say."""
        factor = None if upscale is None else checked_factor(upscale)
        if factor is not None:
            enlarged_size(edit.image.size if edit else (wish.width, wish.height), factor)
        last = await _last(self._page.follow(visitor, wish, edit))
        names, warnings = last.names, last.warnings
        if factor is not None:  # as by the button: what was drawn stays in the gallery
            larger = [
                await _last(self._page.drawings.enlarge(visitor, wish.model, name, factor, wish.adapters))
                for name in names
            ]
            names = [name for view in larger for name in view.names]
            warnings = [*dict.fromkeys(warnings + [note for view in larger for note in view.warnings])]
        return await asyncio.to_thread(self._kept, self._page.room(visitor), names, warnings)

    def _kept(self, room: str, names: Sequence[str], warnings: list[str]) -> Answer:
        history = self._page.history
        settings = [history.metadata(room, name) for name in names]
        return [str(history.file(room, name)) for name in names], {"images": settings, "warnings": warnings}


async def _last(drawing: AsyncGenerator[View, None]) -> View:
    """Return how a drawing ended. Raises SettingsError where it failed."""
    last: View | None = None
    async with aclosing(drawing) as views:
        async for view in views:
            last = view
    assert last is not None
    if last.state != "done":
        raise SettingsError(last.message)
    return last


def _weights(adapters: Any) -> dict[str, Any]:
    """Return adapters and their weights, which the engine checks. Raises SettingsError."""
    if adapters is not None and not isinstance(adapters, dict):
        raise SettingsError('adapters are weights by name: send an object, such as {"ink": 0.8}.')
    return adapters or {}


def _fields(models: list[str]) -> dict[str, gr.components.Component]:
    """Return the components that describe the parameters, by their names; errors name their labels."""
    side: dict[str, Any] = {"precision": 0, "minimum": MIN_SIDE, "maximum": MAX_SIDE}
    return {
        "prompt": gr.Textbox(label="Prompt", max_length=MOST_PROMPT),
        "negative_prompt": gr.Textbox("", label="Negative prompt", max_length=MOST_PROMPT),
        "image": gr.File(label="Image", type="filepath"),
        "mask": gr.File(label="Mask", type="filepath"),
        "strength": gr.Number(label="Strength", minimum=0, maximum=1),
        "model": gr.Dropdown(models, value=models[0], label="Model"),
        "width": gr.Number(label="Width", **side),
        "height": gr.Number(label="Height", **side),
        "steps": gr.Number(label="Steps", precision=0, minimum=1, maximum=MOST_STEPS),
        "guidance": gr.Number(label="Guidance", minimum=0, maximum=MOST_GUIDANCE),
        "seed": gr.Number(label="Seed", precision=0, minimum=0, maximum=MAX_SEED),
        "prompt_weights": gr.Checkbox(label="Prompt weights"),
        "num_images": gr.Number(1, label="Number of images", precision=0, minimum=1, maximum=MOST_IMAGES),
        "control": gr.File(label="Control", type="filepath"),
        "control_net": gr.Textbox("", label="ControlNet", max_length=200),
        "control_kind": gr.Textbox("", label="Kind of control", max_length=50),
        "control_scale": gr.Number(label="Scale of control", minimum=-MAX_SCALE, maximum=MAX_SCALE),
        "control_start": gr.Number(label="Start of control", minimum=0, maximum=1),
        "control_end": gr.Number(label="End of control", minimum=0, maximum=1),
        "adapters": gr.JSON(label="Adapters"),
        "upscale": gr.Number(label="Upscale", maximum=MOST_UPSCALE),
    }
