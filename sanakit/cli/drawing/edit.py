"""`sana edit`: an image and a sentence in, an image out.

Without a mask the whole image is redrawn, more or less (`pipelines/image_to_image.py`); with one, or
with room around the image, that part alone (`pipelines/inpaint.py`). Options, display and saving are those
of `sana generate`; torch is imported inside the functions, as there.
"""

from __future__ import annotations

import os
import re
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sanakit.cli.drawing import generate
from sanakit.cli.drawing import options as option
from sanakit.cli.drawing.display import display
from sanakit.cli.drawing.outputs import outputs_of
from sanakit.cli.terminal import AsJson, Debug
from sanakit.errors import OutputError, SettingsError

# Of Pillow's, those that run no other program.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")


def edit(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="The image to start from; its file is not changed.")
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt: what the result should show.")],
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Mask of the same size: white areas are redrawn.",
        ),
    ] = None,
    expand: Annotated[
        str | None,
        typer.Option(
            metavar="L,T,R,B",
            show_default=False,
            help="Pixels to add left, above, right, below; one number is for all sides.",
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            show_default="0.6, of two steps 0.5; with --mask or --expand 1",
            help="0 keeps the image, 1 ignores it.",
        ),
    ] = None,
    model: option.Model = "pocket",
    negative: option.Negative = "",
    prompt_weights: option.PromptWeights = False,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            show_default="the image's own",
            help="Size in pixels; the image is scaled and cropped to it.",
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
    no_metadata: option.NoMetadata = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Redraw an image, a part of it, or around it.

    Such as: sana edit apple.png "a green apple". With --mask or --expand, every pixel outside the drawn part
    stays as it is. The file named by --output is replaced if it exists, but never IMAGE or the mask; without
    it, a new name is chosen.
    """
    # 1. The request
    if mask is not None and expand is not None:
        raise SettingsError("--mask and --expand cannot be combined: use one, then edit the result.")
    image, mask = image.expanduser(), None if mask is None else mask.expanduser()
    margins, prompt = None if expand is None else parse_margins(expand), option.prompt_of(prompt)
    seed, chosen = secrets.randbelow(2**32) if seed is None else seed, option.parse_adapters(adapter)

    with display(preview=False) as show, warnings.catch_warnings(action="ignore"):
        from sanakit.images.formats import check_sides
        from sanakit.images.graphs import workflow_of
        from sanakit.images.image import FORMATS as WRITTEN
        from sanakit.images.image import parse_size
        from sanakit.images.opening import open_image
        from sanakit.pipelines import inpaint
        from sanakit.pipelines.image_to_image import ImageToImage
        from sanakit.pipelines.source import checked_strength

        size = option.size_of(size, width, height)
        sides = parse_size(size) if size is not None else None
        outputs = outputs_of(output, num_images)
        keep_inputs(outputs.paths, [image] if mask is None else [image, mask])
        picture = open_image(image, str(image), FORMATS)
        graph = workflow_of(picture.info)
        marked = None if mask is None else open_image(mask, str(mask), FORMATS)
        if margins is not None:
            picture, marked = inpaint.expand(picture, *margins)
        for path in outputs.paths[:1]:
            check_sides(WRITTEN[path.suffix.lower()], *(sides or picture.size))

        # 2. The images, step by step
        width, height = sides or (None, None)
        words = {"width": width, "height": height, "steps": steps, "guidance": guidance}
        words |= {"solver": solver, "dialect": dialect, "seed": seed, "num_images": num_images}
        words |= {"guidance_kind": guidance_kind, "prompt_weights": prompt_weights}
        words |= {} if strength is None else {"strength": checked_strength(strength)}
        control_model = option.control_model_for(model, control_model, control is not None)
        words["control"] = option.control_image(
            *(control, control_kind, control_scale, control_range), model=model, control_model=control_model
        )
        loading: dict[str, Any] = {"device": device, "dtype": dtype, "memory": memory, "plan": plan}
        loading["adapters"] = chosen
        loading["control_model"] = control_model
        if marked is None:
            pipe = ImageToImage.from_pretrained(model, **loading)
            stream = pipe.stream(picture, prompt, negative, **words)
        else:
            pipe = inpaint.Inpaint.from_pretrained(model, **loading)
            stream = pipe.stream(picture, marked, prompt, negative, **words)
        result = None
        for step in stream:
            show(step)
            result = step.result
    assert result is not None  # the last step carries it

    # 3. Save and print
    generate.deliver(result, outputs, seed, as_json=as_json, bare=no_metadata, graph=graph)


def parse_margins(text: str) -> tuple[int, int, int, int]:
    """Return the pixels to add left, above, right and below from "0,0,64,0", or from "64" for all sides.

    Raises SettingsError.
    >>> parse_margins("0, 0, 64, 0"), parse_margins("32")
    ((0, 0, 64, 0), (32, 32, 32, 32))
    """
    number = r"\s*(\d{1,5})\s*"
    match = re.fullmatch(rf"{number}(?:,{number},{number},{number})?", text, re.ASCII)
    if match is None:
        what = "give pixels for left, top, right and bottom, such as 0,0,64,0, or one number for all sides"
        raise SettingsError(f"The margins {text!r} cannot be read: {what}.")
    left, *others = match.groups()
    top, right, bottom = (left if other is None else other for other in others)
    return int(left), int(top), int(right), int(bottom)


def keep_inputs(paths: Sequence[Path], sources: Sequence[Path]) -> None:
    """Raise OutputError where a result would replace what it is made from."""
    for path in paths:
        for source in sources:
            if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
                raise OutputError(
                    f"{path} is what it is made from: choose another output name, so that it is kept."
                )
