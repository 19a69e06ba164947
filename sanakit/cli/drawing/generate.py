"""`sana generate`: a sentence in, an image out.

Parses the command line, checks settings before a model is loaded, follows `TextToImage.stream`, saves and
prints. torch is imported inside the functions, so that help and typing errors do not wait for it.
"""

from __future__ import annotations

import json
import secrets
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sanakit.cli.drawing import options as option
from sanakit.cli.drawing.again import drawn_again, told_of
from sanakit.cli.drawing.display import display
from sanakit.cli.drawing.outputs import Outputs, outputs_of, save_images
from sanakit.cli.drawing.upscaling import checked, enlarged
from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.pipelines.request import DrawSettings
    from sanakit.pipelines.result import Result


def generate(
    context: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", show_default=False, help="What to draw, in a sentence; - reads it."),
    ] = None,
    from_image: option.From = None,
    model: option.Model = "pocket",
    negative: option.Negative = "",
    prompt_weights: option.PromptWeights = False,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            show_default=option.OWN,
            help="Size in pixels, such as 256x192; one number is a square.",
        ),
    ] = None,
    width: option.Width = None,
    height: option.Height = None,
    steps: option.Steps = None,
    guidance: option.Guidance = None,
    guidance_kind: option.GuidanceKind = None,
    solver: option.Solver = None,
    dialect: option.DialectOption = None,
    seed: option.Seed = None,
    num_images: option.NumImages = 1,
    output: option.Output = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Draw every row of a .txt, .jsonl or .csv file into the folder --output.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --prompts: replace images drawn with other settings.")
    ] = False,
    cluster: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=1000, show_default=False, help="With --prompts: run N Ray workers."
        ),
    ] = None,
    upscale: option.Upscale = None,
    upscale_model: option.UpscaleModel = None,
    upscale_strength: option.UpscaleStrength = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "auto",
    memory: option.Memory = "auto",
    plan: option.Plan = None,
    adapter: option.Adapters = None,
    control: option.ControlFile = None,
    control_kind: option.ControlKind = None,
    control_scale: option.ControlScale = 1.0,
    control_range: option.ControlRange = (0.0, 1.0),
    control_model: option.ControlModel = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile first; takes minutes, pays off for many images on a GPU."),
    ] = False,
    no_metadata: option.NoMetadata = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Preview the image in the terminal.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Draw an image from a sentence.

    The file named by --output is replaced if it exists; without it, a new name is chosen.
    A PNG carries the settings it was drawn with. With --prompts, each row of a file is drawn; the options are
    for rows that do not say otherwise. Run it again and it continues where it stopped.
    """
    if from_image is not None:
        return generate(context, **drawn_again(context, from_image))

    # 1. The request
    size = option.size_of(size, width, height)
    settings: DrawSettings = {"steps": steps, "guidance": guidance, "solver": solver, "dialect": dialect}
    settings |= {"num_images": num_images, "guidance_kind": guidance_kind, "prompt_weights": prompt_weights}
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "memory": memory, "plan": plan}
    loading |= {"compile": compiled, "adapters": option.parse_adapters(adapter)}
    loading["control_model"] = control_model = option.control_model_for(
        model, control_model, control is not None
    )
    words = (control, control_kind, control_scale, control_range)
    if prompts is not None:
        others = {
            "a PROMPT": prompt,
            "--preview": preview,
            "--no-metadata": no_metadata,
            "--upscale": upscale,
            "--upscale-model": upscale_model,
            "--upscale-strength": upscale_strength,
        }
        if other := next((name for name, given in others.items() if given not in (None, False)), ""):
            raise SettingsError(f"--prompts and {other} cannot be combined: give one of them.")
        from sanakit.cli.drawing.batch import draw_prompts

        draw_prompts(
            prompts,
            output,
            model=model,
            loading=loading,
            size=size,
            seed=seed,
            defaults={"negative_prompt": negative, **settings},
            steering=words,
            overwrite=overwrite,
            workers=cluster,
            as_json=as_json,
        )
        return
    if prompt is None:
        raise SettingsError("PROMPT is missing: give one, or a file of prompts with --prompts.")
    prompt = option.prompt_of(prompt)
    if overwrite or cluster is not None:
        raise SettingsError("--overwrite and --cluster need a file of prompts: give it with --prompts.")
    settings["seed"] = seed = secrets.randbelow(2**32) if seed is None else seed

    with display(preview) as show, warnings.catch_warnings(action="ignore"):  # the result tells them
        from sanakit.flow.guidance import check_scale
        from sanakit.flow.guidance_kinds import read_kind
        from sanakit.images.image import drawn_size, parse_size
        from sanakit.pipelines.memory import parse_budget
        from sanakit.pipelines.text_to_image import TextToImage

        sides = parse_size(size) if size is not None else None
        outputs = outputs_of(output, num_images)
        if sides is not None:  # the limits of all models; the model's own multiple is checked by `stream`
            drawn_size(*sides, sample_size=32, compression=32, binned=True)
        if guidance is not None:
            check_scale(guidance)
        if guidance_kind is not None:
            read_kind(guidance_kind)
        parse_budget(memory)
        enlarging = checked(upscale, upscale_model, upscale_strength)
        settings["control"] = option.control_image(*words, model=model, control_model=control_model)

        # 2. The images, step by step
        pipe = TextToImage.from_pretrained(model, **loading, encoder=enlarging is not None)
        width, height = sides or (None, None)
        result = None
        for step in pipe.stream(prompt, negative, width=width, height=height, **settings):
            show(step)
            result = step.result
        if enlarging is not None and result is not None:
            result = enlarged(result, pipe, enlarging, loading, show)
    assert result is not None  # the last step carries it

    # 3. Save and print
    deliver(result, outputs, seed, as_json=as_json, bare=no_metadata, told=told_of(context))


def deliver(
    result: Result,
    outputs: Outputs,
    seed: int,
    *,
    as_json: bool,
    bare: bool,
    graph: str = "",
    told: Sequence[str] = (),
) -> None:
    """Save images as `save_images` does and print what was made. told: before. Raises OutputError."""
    paths = save_images(result, outputs, seed, bare=bare, graph=graph)
    for warning in result.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    if as_json:
        images = [{"path": str(path), **one} for path, one in zip(paths, result.metadata, strict=True)]
        report = {"images": images, "timings": result.timings, "warnings": [*told, *result.warnings]}
        print(json.dumps(report, indent=2))
    else:
        for path, image_seed in zip(paths, result.seeds, strict=True):
            print(f"{path}  seed {image_seed}")
