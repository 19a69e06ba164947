"""Settings of an image in the forms that the page shows: controls, a command line, JSON, a PNG's chunks.

Plain functions of a model's ModelSpec and of the settings that every image carries (`images/image.py`);
nothing here knows Gradio or the engine.
"""

from __future__ import annotations

import math
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sanakit.adapters.attach import recorded_uses
from sanakit.dialect import USUAL, check_dialect
from sanakit.errors import SettingsError, of_setting
from sanakit.flow.guidance_kinds import PLAIN, read_kind
from sanakit.images.image import BINNED_SAMPLE_SIZES, Metadata, nearest_bin
from sanakit.images.settings import GRID
from sanakit.pipelines.control import recorded_controls
from sanakit.pipelines.request import MAX_IMAGES, MAX_SEED, ModelSpec, whole_number
from sanakit.serve.engine.steering import NamedControl
from sanakit.text.prompt_weights import checked_prompts

NO_STYLE = "Plain"
CUSTOM = "Custom"  # the size that is typed
MOST_IMAGES = 8  # of one press of the button
MOST_EXAMPLES = 8  # prompts that the page shows
MOST_STEPS, MOST_GUIDANCE = 100, 20.0  # as far as the sliders go
SOURCE = "source.png"  # stands for the visitor's file, whose place only they know
CONTROL = "control.png"  # likewise, of what steered it

# Text added to the prompt, where a model's folder names no styles: the published models know words that
# captions are full of.
_GENERAL = {
    "Photo": "photograph, natural light, sharp focus",
    "Cinematic": "cinematic still, dramatic light, shallow depth of field",
    "Watercolour": "watercolour painting on paper, soft washes",
    "Oil painting": "oil painting, visible brush strokes",
    "Ink": "ink drawing, fine lines, white paper",
    "3D render": "3D render, soft studio light",
    "Flat": "flat vector illustration, simple shapes, few colours",
    "Pixel art": "pixel art, 16-bit game",
}
_RATIOS = {"Square": (1, 1), "Landscape": (4, 3), "Portrait": (3, 4), "Wide": (16, 9), "Tall": (9, 16)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """The controls' values when the button is pressed."""

    model: str
    prompt: str
    style: str = NO_STYLE
    negative_prompt: str = ""
    prompt_weights: bool = False
    width: int  # pixels
    height: int
    steps: int
    guidance: float
    guidance_kind: str = str(PLAIN)
    solver: str
    seed: str = ""  # as typed: a browser's numbers lose the last digits of large ones; empty: a new one
    num_images: int = 1
    control: Sequence[NamedControl] = ()  # what steers it
    adapters: Mapping[str, float] = field(default_factory=dict)  # name -> weight; others are off

    def words(self, known: Mapping[str, str]) -> dict[str, Any]:
        """Return the keyword arguments of `Engine.check`. known: the model's styles. Raises SettingsError."""
        with of_setting("num_images"):
            whole_number("The number of images", self.num_images, 1, MOST_IMAGES)
        if not self.prompt.strip():
            raise SettingsError("Write what to draw, such as “a red apple”.", setting="prompt")
        return {
            "prompt": add_style(self.prompt, self.style, known),
            "negative_prompt": self.negative_prompt,
            "prompt_weights": self.prompt_weights,
            "steps": self.steps,
            "guidance": self.guidance,
            "guidance_kind": self.guidance_kind.strip() or str(PLAIN),
            "solver": self.solver,
            "seed": parse_seed(self.seed),
            "num_images": self.num_images,
            "control": self.control,
            "adapters": self.adapters,
        }


def styles(spec: ModelSpec) -> dict[str, str]:
    """Return the styles of a model: name on the page -> what is added to the prompt."""
    return {NO_STYLE: "", **(spec.settings.styles or _GENERAL)}


def add_style(prompt: str, style: str, known: Mapping[str, str]) -> str:
    """Return the prompt in one of the known styles.

    >>> add_style("a panda", "Cartoon", {"Cartoon": "cartoon"})
    'a panda, cartoon'
    """
    suffix = known.get(style, "")
    return f"{prompt.strip()}, {suffix}" if suffix else prompt


def split_style(prompt: str, known: Mapping[str, str]) -> tuple[str, str]:
    """Return (prompt without its style, style) of a prompt as `add_style` made it.

    >>> split_style("a panda, cartoon", {"Cartoon": "cartoon"})
    ('a panda', 'Cartoon')
    """
    for style, suffix in known.items():
        if suffix and prompt.endswith(f", {suffix}"):
            return prompt.removesuffix(f", {suffix}"), style
    return prompt, NO_STYLE


def sizes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Return sizes that a model draws well: name with pixels -> (width, height).

    They are those of its folder, the model's own size first. Without them, each covers about the area that
    the model was trained on; a published model draws its own bins.
    """
    own = (spec.settings.width, spec.settings.height)
    if spec.settings.sizes:
        learned = sorted(spec.settings.sizes, key=lambda size: size != own)
        return {f"{_shape(*size)}  {size[0]} × {size[1]}": size for size in learned}
    side = math.sqrt(spec.settings.width * spec.settings.height)
    found = {}
    for name, (across, down) in _RATIOS.items():
        ratio = math.sqrt(across / down)
        if spec.sample_size in BINNED_SAMPLE_SIZES:
            side = spec.sample_size * spec.compression
            height, width = nearest_bin(down, across, side, spec.settings.dialect)
        else:
            width, height = (
                spec.compression * round(x / spec.compression) for x in (side * ratio, side / ratio)
            )
        found[f"{name}  {width} × {height}"] = (width, height)
    return found


def solvers(spec: ModelSpec) -> list[str]:
    """Return the solvers that a model can be drawn with."""
    return ["scm"] if spec.guidance_embed else ["dpm", "euler"]


def size_choices(spec: ModelSpec) -> list[str]:
    """Return the names of a model's sizes; any other may be typed where its folder lists none."""
    return [*sizes(spec), *([] if spec.settings.sizes else [CUSTOM])]


def examples(spec: ModelSpec) -> list[str]:
    """Return prompts that a model draws well, as its folder lists them."""
    return list(dict.fromkeys(spec.settings.example_prompts))[:MOST_EXAMPLES]


def example(spec: ModelSpec) -> str:
    """Return a prompt that a model draws well."""
    return next(iter(spec.settings.example_prompts), "a red apple")


def _shape(width: int, height: int) -> str:
    """Return the name of the nearest ratio."""
    return min(_RATIOS, key=lambda name: abs(math.log(width / height * _RATIOS[name][1] / _RATIOS[name][0])))


def chosen_seed(typed: str | None, keep: bool, drawn: str) -> str:
    """Return the seed of a drawing: the typed one if it is kept or new since the last drawing, else random.

    drawn: the seed of the last drawing.
    """
    seed = (typed or "").strip()
    return seed if seed and (keep or seed != drawn) else str(secrets.randbelow(2**32))


@of_setting("seed")
def parse_seed(text: str) -> int | None:
    """Return the seed that was typed; None where none was. Raises SettingsError."""
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_SEED)) or int(text) > MAX_SEED:
        raise SettingsError(
            f"The seed {text[:40]!r} is not a whole number from 0 to {MAX_SEED}: change or clear it."
        )
    return int(text)


def parse_whole(what: str, value: Any, setting: str = "") -> int:
    """Return a number field's value as a whole number; empty while a person types. Raises SettingsError.

    what: the setting in words. setting: its name; "": the same.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        came = "empty" if value is None else repr(value)
        raise SettingsError(f"The {what} is {came}: use a whole number.", setting=setting or what)
    return int(value)


def command_line(metadata: Metadata) -> str:
    """Return the `sana` command that draws an image again, quoted for a POSIX shell.

    An edit's own source (and mask) cannot be known to a server: `source.png` stands for it, and `control.png`
    for what steered it. The command has one control image: for several a comment says how to go on.
    """
    if GRID[0] in metadata:
        return "# a grid of images: draw it on the page, under X/Y grid"
    steered = recorded_controls(metadata.get("control", ""))
    if len(steered) > 1:
        return f"# {len(steered)} control images: draw it in Python, TextToImage(...)(control=[...])"
    prompt = str(metadata["prompt"])
    edited = "strength" in metadata
    options = {
        "--strength": metadata.get("strength"),
        "--model": metadata["model"],
        "--negative": metadata.get("negative_prompt") or None,
        "--size": None if edited else f"{metadata['width']}x{metadata['height']}",  # an edit has its source's
        "--steps": metadata["steps"],
        "--guidance": metadata.get("guidance"),
        "--guidance-kind": metadata.get("guidance_kind"),
        "--solver": metadata.get("solver"),
        "--dialect": metadata.get("dialect"),
        "--seed": metadata.get("seed"),
    }
    # = keeps a value that begins with a hyphen from being read as an option; so does -- before the prompt.
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    given += ["--prompt-weights"] if metadata.get("prompt_weights") else []
    uses = recorded_uses(metadata.get("adapters", ""))
    given += [f"--adapter={use.file}:{use.weight:g}" for use in uses]
    for kind, scale, start, end, net, _ in steered:
        given += [f"--control={CONTROL}", f"--control-kind={kind}", f"--control-scale={scale}"]
        given += ["--control-range", start, end] if start else []
        given += [f"--control-model={net}"] if net else []
    larger = metadata.get("upscale")
    if larger and not edited:
        given.append(f"--upscale={larger:g}")
        given += (
            [f"--upscale-strength={metadata['upscale_strength']}"] if "upscale_strength" in metadata else []
        )
        given += [f"--upscale-model={metadata['upscale_model']}"] if "upscale_model" in metadata else []
    words = ["edit", SOURCE] if edited else ["generate"]
    arguments = [*given, "--", prompt] if prompt.startswith("-") else [prompt, *given]
    then = f"  # then it was enlarged {larger:g} times" if larger and edited else ""
    return shlex.join(["sana", *words, *arguments]) + then


def other_dialect(metadata: Metadata, spec: ModelSpec) -> str:
    """Return what is told of an image that was drawn in another dialect than a page draws in; else ""."""
    drawn, own = str(metadata.get("dialect", USUAL)), spec.settings.dialect
    if drawn == own:
        return ""
    return f"It was drawn in the dialect {drawn}; this page draws in {own}, which gives another image."


def other_control(metadata: Metadata) -> str:
    """Return what is told of an image that was steered, whose control image no file keeps; else ""."""
    control = str(metadata.get("control", ""))[:200]
    told = f"It was steered ({control}): choose that image again under Steer by an image."
    return told if control else ""


def drawn_by(metadata: Metadata, specs: Mapping[str, ModelSpec], chosen: str) -> tuple[str, list[str]]:
    """Return the model that draws an image again: its own if it is here, else the chosen one.

    Also what is told of an image that a page does not draw again by its settings alone.
    """
    own, notes = str(metadata["model"]), []
    if own not in specs:
        notes.append(f"It was drawn by {own[:100]}, missing here; {chosen} draws another image.")
    model = own if own in specs else chosen
    grid = "It is a grid of images: these are the settings of its first one." if GRID[0] in metadata else ""
    found = other_dialect(metadata, specs[model]), other_control(metadata), grid
    return model, notes + [note for note in found if note]


def checked_settings(found: Metadata) -> Metadata:
    """Return the settings in a visitor's file, which anyone may have written. Raises SettingsError."""
    whole_number("The number of steps in this file", int(found["steps"]), 1, 1000)
    guidance = float(found.get("guidance", 1.0))
    if not math.isfinite(guidance) or guidance < 0:
        raise SettingsError(f"The guidance in this file is {guidance}; it must be a number from 0.")
    checked_prompts(str(found["prompt"]), str(found.get("negative_prompt", "")), MAX_IMAGES)
    read_kind(str(found.get("guidance_kind", PLAIN)))
    check_dialect(found.get("dialect", USUAL))
    recorded_uses(found.get("adapters", ""))
    recorded_controls(found.get("control", ""))
    parse_seed(str(found.get("seed", "")))
    return found
