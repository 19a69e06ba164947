"""The panel of the page: words and settings, and what a model offers for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from sanakit.flow.guidance_kinds import PLAIN
from sanakit.images.image import Metadata
from sanakit.pipelines.request import ModelSpec
from sanakit.serve.web.settings import (
    CUSTOM,
    MOST_GUIDANCE,
    MOST_IMAGES,
    MOST_STEPS,
    NO_STYLE,
    example,
    examples,
    size_choices,
    sizes,
    solvers,
    split_style,
    styles,
)
from sanakit.weights.settings import ModelSettings

MOST_PROMPT = 4000  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Words and settings; those that make a `Wish` have the names of its fields."""

    column: gr.Column
    prompt: gr.Textbox
    style: gr.Radio
    chips: gr.Radio  # example prompts
    draw: gr.Button
    cancel: gr.Button
    size: gr.Dropdown
    sides: gr.Row
    width: gr.Number
    height: gr.Number
    num_images: gr.Number
    seed: gr.Textbox
    keep_seed: gr.Checkbox
    drawn_seed: gr.State  # the one of the last drawing
    dice: gr.Button
    negative_prompt: gr.Textbox
    prompt_weights: gr.Checkbox
    steps: gr.Slider
    guidance: gr.Slider
    guidance_kind: gr.Textbox
    solver: gr.Radio
    model: gr.Dropdown
    png: gr.File


def make_panel(specs: dict[str, ModelSpec]) -> Panel:
    """Lay out the words and settings. specs: by name, the first is chosen."""
    spec = next(iter(specs.values()))
    own, choices, prompts = spec.settings, size_choices(spec), examples(spec)
    with gr.Column(scale=4, min_width=320, elem_id="panel") as column:
        with gr.Column(elem_id="words"):
            prompt = make_prompt(example(spec), autofocus=True)
            style = gr.Radio(
                list(styles(spec)),
                value=NO_STYLE,
                label="Style",
                elem_id="style",
                elem_classes="words",
            )
            chips = gr.Radio(
                prompts,
                label="Try",
                elem_id="examples",
                elem_classes="words",
                visible=bool(prompts),
            )
            draw, cancel = make_buttons()
        with gr.Column(elem_id="settings"):
            model = make_models(list(specs))
            with gr.Row():
                size = gr.Dropdown(
                    choices, value=choices[0], label="Size", elem_id="size", min_width=180, scale=3
                )
                num_images = gr.Number(
                    1,
                    minimum=1,
                    maximum=MOST_IMAGES,
                    precision=0,
                    label="Images",
                    elem_id="count",
                    min_width=80,
                    scale=1,
                )
            sides, width, height = make_sides(own)
            seed, dice, keep_seed, drawn_seed = make_seed()
            with gr.Accordion("More settings", open=False, elem_id="more"):
                negative_prompt = make_negative()
                prompt_weights = make_weights()
                steps, guidance = make_strengths([one.settings for one in specs.values()])
                guidance_kind = gr.Textbox(
                    own.guidance_kind,
                    label="Kind of guidance",
                    elem_id="guidance-kind",
                    max_length=200,
                    info="cfg, apg or zero-star; interval=0.2-0.9, rescale=0.7, pag=2.",
                )
                solver = gr.Radio(
                    solvers(spec), value=own.solver, label="Solver", elem_id="solver", elem_classes="words"
                )
            with gr.Accordion("Settings from an image", open=False, elem_id="from-picture"):
                png = gr.File(
                    label="Image file with settings, of any program",
                    file_types=[".png", ".jpg", ".jpeg", ".webp"],
                    type="filepath",
                    height=120,
                    elem_id="png",
                )
    found = locals()
    return Panel(**{field.name: found[field.name] for field in fields(Panel)})


# The parts that images and clips share. ids: begins the ids of the components.


def make_prompt(placeholder: str, ids: str = "", *, autofocus: bool = False) -> gr.Textbox:
    """Lay out the field of the prompt."""
    return gr.Textbox(
        label="Prompt",
        placeholder=placeholder,
        lines=3,
        max_lines=8,
        max_length=MOST_PROMPT,
        autofocus=autofocus,
        elem_id=f"{ids}prompt",
    )


def make_buttons(ids: str = "") -> tuple[gr.Button, gr.Button]:
    """Lay out the buttons that draw and cancel."""
    with gr.Row(elem_id=f"{ids}buttons"):
        draw = gr.Button("Draw", variant="primary", elem_id=f"{ids}draw", scale=3, min_width=120)
        return draw, gr.Button("Cancel", elem_id=f"{ids}cancel", interactive=False, scale=1, min_width=90)


def make_models(names: list[str], ids: str = "") -> gr.Dropdown:
    """Lay out the choice of models, the first chosen; hidden where there is one."""
    shown = len(names) > 1
    return gr.Dropdown(names, value=names[0], label="Model", elem_id=f"{ids}model", visible=shown)


def make_sides(own: ModelSettings, ids: str = "") -> tuple[gr.Row, gr.Number, gr.Number]:
    """Lay out width and height, hidden at first."""
    with gr.Row(visible=False) as sides:
        width, height = (
            gr.Number(value, label=side, precision=0, elem_id=f"{ids}{side.lower()}", min_width=100)
            for side, value in (("Width", own.width), ("Height", own.height))
        )
    return sides, width, height


def make_seed(ids: str = "") -> tuple[gr.Textbox, gr.Button, gr.Checkbox, gr.State]:
    """Lay out the seed, what rolls a new one, and whether it is kept; with the one of the last drawing."""
    with gr.Row(elem_id=f"{ids}seed-row"):
        seed = gr.Textbox(
            label="Seed",
            placeholder="a new one",
            max_length=20,
            elem_id=f"{ids}seed",
            min_width=100,
            scale=3,
        )
        dice = gr.Button("⚄", elem_id=f"{ids}dice", scale=0, min_width=44)
        keep = gr.Checkbox(label="Keep", elem_id=f"{ids}keep-seed", container=False, scale=0, min_width=80)
    return seed, dice, keep, gr.State("")


def make_negative(ids: str = "", value: str | None = None, *, visible: bool = True) -> gr.Textbox:
    """Lay out the field of the negative prompt."""
    return gr.Textbox(
        value,
        label="What not to draw",
        max_length=MOST_PROMPT,
        elem_id=f"{ids}negative",
        lines=1,
        max_lines=4,
        visible=visible,
    )


def make_weights(ids: str = "") -> gr.Checkbox:
    """Lay out whether words of the prompts are weighed."""
    info = "(red:1.5) weighs these words; otherwise it is text."
    return gr.Checkbox(label="Prompt weights", elem_id=f"{ids}prompt-weights", info=info)


def make_strengths(
    every: Sequence[ModelSettings], ids: str = "", *, visible: bool = True
) -> tuple[gr.Slider, gr.Slider]:
    """Lay out steps and guidance, as far as any of the models goes; the first one's are set."""
    steps = gr.Slider(
        1,
        max(MOST_STEPS, *(one.steps for one in every)),
        every[0].steps,
        step=1,
        label="Steps",
        elem_id=f"{ids}steps",
        info="More: finer, slower.",
        visible=visible,
    )
    guidance = gr.Slider(
        min(1, *(one.guidance for one in every)),
        max(MOST_GUIDANCE, *(one.guidance for one in every)),
        every[0].guidance,
        step=0.1,
        label="Guidance",
        elem_id=f"{ids}guidance",
        info="More keeps to the words; 1 is off, in half the time.",
        visible=visible,
    )
    return steps, guidance


def reaching(slider: gr.Slider, value: float) -> Any:
    """Return the change that sets a slider; one with ends further apart where the value lies beyond them."""
    if slider.minimum <= value <= slider.maximum:
        return value
    ends = min(slider.minimum, value), max(slider.maximum, value)
    return gr.update(value=value, minimum=ends[0], maximum=ends[1])


def offered_by(spec: ModelSpec, panel: Panel) -> dict[Any, Any]:
    """Return the changes of a panel that offer a model's own examples, styles and sizes, and its defaults."""
    own, choices, prompts = spec.settings, size_choices(spec), examples(spec)
    return {
        panel.prompt: gr.update(placeholder=example(spec)),
        panel.chips: gr.update(choices=prompts, value=None, visible=bool(prompts)),
        panel.style: gr.update(choices=list(styles(spec)), value=NO_STYLE),
        panel.size: gr.update(choices=choices, value=choices[0]),
        panel.sides: gr.update(visible=False),
        panel.width: own.width,
        panel.height: own.height,
        panel.steps: own.steps,
        panel.guidance: own.guidance,
        panel.guidance_kind: own.guidance_kind,
        panel.solver: gr.update(choices=solvers(spec), value=own.solver),
    }


def restored_from(metadata: Metadata, spec: ModelSpec, panel: Panel) -> dict[Any, Any]:
    """Return the changes of a panel that show what an image was drawn with, by a model of this spec."""
    offered, known = sizes(spec), styles(spec)
    size = (metadata["width"], metadata["height"])
    choice = next((name for name, sides in offered.items() if sides == size), CUSTOM)
    choices = [*offered, CUSTOM] if choice == CUSTOM else size_choices(spec)
    prompt, style = split_style(str(metadata["prompt"]), known)
    solver = str(metadata.get("solver", ""))
    solver = solver if solver in solvers(spec) else spec.settings.solver
    return {
        panel.prompt: prompt,
        panel.style: gr.update(choices=list(known), value=style),
        panel.negative_prompt: metadata.get("negative_prompt", ""),
        panel.prompt_weights: bool(metadata.get("prompt_weights", False)),
        panel.size: gr.update(choices=choices, value=choice),
        panel.sides: gr.update(visible=choice == CUSTOM and "strength" not in metadata),
        panel.width: size[0],
        panel.height: size[1],
        panel.steps: reaching(panel.steps, int(metadata["steps"])),
        panel.guidance: reaching(panel.guidance, float(metadata.get("guidance", 1.0))),
        panel.guidance_kind: metadata.get("guidance_kind", str(PLAIN)),
        panel.solver: gr.update(choices=solvers(spec), value=solver),
        panel.seed: str(metadata.get("seed", "")),
        panel.keep_seed: "seed" in metadata,
        panel.num_images: 1,
    }
