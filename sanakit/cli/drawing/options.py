"""Options that the commands which draw have in common, and what some of them mean."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from sanakit.dialect import Dialect
from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.pipelines.control import ControlImage

OWN = "model's own"

Model = Annotated[
    str, typer.Option(help="A name (`sana models`), folder, .safetensors or .pth file, or Hub org/repo.")
]
Negative = Annotated[str, typer.Option(help="What not to draw.")]
PromptWeights = Annotated[
    bool, typer.Option("--prompt-weights", help="Read (red:1.5) in the prompt as a weight of these words.")
]
Steps = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=1000, show_default=OWN, help="More are finer, slower."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        show_default=OWN,
        help="Higher follows the prompt more closely; 1 turns it off and is twice as fast.",
    ),
]
Solver = Annotated[
    Literal["dpm", "euler", "scm"] | None,
    typer.Option(show_default=OWN, help="dpm needs fewer steps than euler; scm is for SANA-Sprint only."),
]
DialectOption = Annotated[
    Dialect | None,
    typer.Option(metavar="NAME", show_default=OWN, help="diffusers; native: as NVIDIA's own scripts draw."),
]
GuidanceKind = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        show_default=OWN,
        help="How it guides: apg, zero-star, interval=0.2-0.9, pag=2, ...",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", "-s", metavar="N", min=0, show_default="random", help="The same seed draws the same image."
    ),
]
NumImages = Annotated[
    int,
    typer.Option(
        "--num-images",
        "-n",
        metavar="N",
        min=1,
        max=256,
        help="Images to draw: this seed and those after it.",
    ),
]
Output = Annotated[
    str | None,  # a path would lose the slash that says "a folder"
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default="sana-SEED.png",
        help="Or a folder/ for sana-SEED.png, which is made; several get -1, -2, ... in their names.",
    ),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="IMAGE",
        show_default=False,
        help="Take the settings of an image's file; what is typed counts more.",
    ),
]
NoMetadata = Annotated[
    bool, typer.Option("--no-metadata", help="Write files without the settings that drew them.")
]
Upscale = Annotated[
    float | None,
    typer.Option(metavar="F", show_default=False, help="Enlarge the image F times, by Lanczos or a model."),
]
UpscaleModel = Annotated[
    str | None,
    typer.Option(metavar="MODEL", show_default="--model", help="Model of 2K or 4K that draws the detail."),
]
UpscaleStrength = Annotated[
    float | None,
    typer.Option(
        metavar="S",
        show_default="0.3 of models of 2K and 4K, else 0",
        help="How much the model redraws of the enlarged image; 0: Lanczos.",
    ),
]
Width = Annotated[
    int | None,
    typer.Option("--width", "-W", metavar="N", min=1, show_default=OWN, help="In pixels; or use --size."),
]
Height = Annotated[
    int | None,
    typer.Option("--height", "-H", metavar="N", min=1, show_default=OWN, help="In pixels; or use --size."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Memory = Annotated[
    str, typer.Option(metavar="SIZE", help="Memory limit, such as 4GB; auto; all: keep everything.")
]
Plan = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default="as stored", help="Quantise while loading: int8, ..."),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FILE[:WEIGHT]",
        show_default="none",
        help="LoRA file and its weight, 1 if left out; repeat it for several.",
    ),
]
HintName = Literal["as-is", "edges", "lines", "soft-edges", "blocks", "mask"]  # as `images.hints.HintKind`

ControlFile = Annotated[
    Path | None,
    typer.Option("--control", metavar="FILE", show_default=False, help="Image that steers a ControlNet."),
]
ControlKind = Annotated[
    HintName | None,
    typer.Option(
        metavar="KIND",
        show_default="the ControlNet's own, or as-is",
        help="edges, lines, soft-edges, blocks, mask: hint to make of the image; as-is: it is one.",
    ),
]
ControlScale = Annotated[
    float, typer.Option(metavar="X", help="How strongly it steers; 0 not at all, 1 as trained.")
]
ControlRange = Annotated[
    tuple[float, float],
    typer.Option(metavar="A B", help="Shares of the steps from which and until which it steers."),
]
ControlModel = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        show_default="the model's own",
        help="ControlNet: a name, folder, .pth file or Hub org/repo.",
    ),
]


def prompt_of(text: str) -> str:
    """Return a prompt; "-" reads it from standard input. An empty one is told on standard error."""
    if text == "-":
        text = sys.stdin.read().strip()
    if not text.strip():
        print("Warning: the prompt is empty, so the model draws anything.", file=sys.stderr)
    return text


def size_of(size: str | None, width: int | None, height: int | None) -> str | None:
    """Return --size, or the same of --width and --height. Raises SettingsError where they do not go together.

    >>> size_of(None, 256, 192)
    '256x192'
    """
    if width is None and height is None:
        return size
    if size is not None:
        raise SettingsError("--size and --width or --height cannot be combined: give one of them.")
    if width is None or height is None:
        raise SettingsError("--width and --height belong together: give both, or --size for a square.")
    return f"{width}x{height}"


def named_adapters(texts: list[str] | None) -> dict[str, str]:
    """Return names of adapters and their files from "NAME=FILE". Raises SettingsError.

    >>> named_adapters(["style=loras/style.safetensors"])
    {'style': 'loras/style.safetensors'}
    """
    return _named("--adapter", "FILE", texts)


def named_controls(texts: list[str] | None) -> dict[str, str]:
    """Return names of ControlNets and where they are from "NAME=MODEL". Raises SettingsError.

    >>> named_controls(["lines=runs/control/model"])
    {'lines': 'runs/control/model'}
    """
    return _named("--control", "MODEL", texts)


def _named(option: str, what: str, texts: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts or []:
        name, _, file = text.partition("=")
        if not name or not file:
            raise SettingsError(f"{option} {text}: write NAME={what}; requests choose by these names.")
        if name in found:
            raise SettingsError(f"{option} {text}: the name {name!r} is given twice; choose another one.")
        found[name] = file
    return found


def parse_adapters(texts: list[str] | None) -> list[tuple[str, float]]:
    """Return files of adapters and their weights from "FILE" or "FILE:WEIGHT". Raises SettingsError.

    >>> parse_adapters(["style.safetensors:0.8", "C:/cat.safetensors", "old.safetensors:-1"])
    [('style.safetensors', 0.8), ('C:/cat.safetensors', 1.0), ('old.safetensors', -1.0)]
    """
    found = []
    for text in texts or []:
        file, colon, weight = text.rpartition(":")
        try:
            number = float(weight) if colon else math.nan
        except ValueError:
            number = math.nan
        if not file or os.path.exists(os.path.expanduser(text)):  # a name may hold a colon itself
            found.append((text, 1.0))
        elif math.isfinite(number):
            found.append((file, number))
        elif os.path.exists(os.path.expanduser(file)) or not weight:
            raise SettingsError(
                f"--adapter {text}: the weight {weight!r} is not a number; write FILE:0.8, or FILE alone."
            )
        else:
            found.append((text, 1.0))
    return found


def steering_option(
    control_model: str | None, kind: str | None, scale: float, span: tuple[float, float]
) -> str | None:
    """Return the first option that was given and says how an image steers; None: none was."""
    given = {"--control-model": control_model, "--control-kind": kind}
    given |= {"--control-scale": scale != 1, "--control-range": span != (0, 1)}
    return next((name for name, value in given.items() if value), None)


def control_model_for(model: str, given: str | None, steered: bool) -> str | None:
    """Return the ControlNet to load: the one given, else the first that the model offers if images steer it.

    None: the model's own, or none. Only headers and settings are read.
    """
    if given is not None or not steered:
        return given
    from sanakit.weights.control import controlnets_of
    from sanakit.weights.settings import load_settings

    offered = () if controlnets_of(model) else load_settings(model).control_models
    return next(iter(offered), None)


def control_image(
    file: Path | None,
    kind: HintName | None,
    scale: float,
    span: tuple[float, float],
    *,
    model: str,
    control_model: str | None,
) -> ControlImage | None:
    """Return the control image of a command line, or None without one. Only headers of weights are read.

    kind: None: the kind that the ControlNet says it was trained on, else "as-is".

    Raises SettingsError for options that need another one, or an image that cannot be read.
    """
    if file is None:
        if option := steering_option(control_model, kind, scale, span):
            raise SettingsError(f"{option} needs an image to steer by: give it with --control, or omit both.")
        return None
    from sanakit.images.opening import open_image
    from sanakit.pipelines.control import ControlImage
    from sanakit.weights.control import controlnets_of, hint_of

    nets = controlnets_of(model, control_model)
    if not nets:
        raise SettingsError(
            f"{model} has no ControlNet, which --control needs: name one with --control-model, or omit it."
        )
    picture = open_image(file.expanduser(), str(file))
    kind = kind or cast(HintName, hint_of(nets[0]) or "as-is")
    return ControlImage(picture, kind=kind, scale=scale, start=span[0], end=span[1])
