"""`sana generate --from IMAGE`: the settings of an image's file, where the command line says nothing else.

An image of ours is drawn again by all that its file tells. Of other programs' settings those are taken that
mean the same here; every other one is named. Images that a drawing started from or was steered by are in no
file, which is told.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sanakit import __version__
from sanakit.cli.drawing.options import control_model_for, parse_adapters
from sanakit.cli.terminal import shown
from sanakit.cli.typer_seams import typed_options
from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.images.recorded import ImageFacts

_TOLD = "sanakit.again"  # in a command's context
LENGTH = 80  # characters of a foreign setting that a warning shows
_SOLVERS = {"DPM++ 2M": "dpm", "dpmpp_2m": "dpm", "Euler": "euler", "euler": "euler", "SCM": "scm"}
_TAG = re.compile(r"<(lora|lyco|hypernet):([^:<>]{1,200})(?::([^<>]{0,50}))?>", re.IGNORECASE)
_SAYS_NOTHING = ("Version", "Model hash", "base_model_hash")  # of the model, which is told, or of the program
# A setting by our names -> the option that it fills.
_OPTIONS = {
    **{name: name for name in ("prompt", "steps", "guidance", "guidance_kind", "solver", "dialect", "seed")},
    **{name: name for name in ("prompt_weights", "upscale", "upscale_strength", "upscale_model")},
    "negative_prompt": "negative",
}
# Settings that a file of ours leaves out were at their defaults, whatever a user's own are now.
_OURS_LEFT_OUT = {"negative": "", "prompt_weights": False, "guidance_kind": None, "dialect": "diffusers"}


@dataclass(slots=True)
class Recall:
    """A command line's options while an image's settings are filled in. typed: names of those that stay."""

    options: dict[str, Any]
    typed: set[str]
    notes: list[str] = field(default_factory=list)

    def fill(self, found: Mapping[str, object]) -> None:
        """Take over options that were not typed."""
        self.options |= {name: value for name, value in found.items() if name not in self.typed}


def drawn_again(context: typer.Context, image: Path) -> dict[str, Any]:
    """Return the options of `sana generate` with an image's settings in them; tell what is not done.

    Raises SettingsError for a file without settings, and for a model that is not here.
    """
    from sanakit.images.recorded import SANAKIT, describe_image

    recall = Recall({**context.params, "from_image": None}, typed_options(context))
    if "prompts" in recall.typed:
        raise SettingsError("--from and --prompts cannot be combined: give one of them.")
    facts = describe_image(image.expanduser())
    if facts is None:
        raise SettingsError(f"{image} is not an image: --from needs a PNG, JPEG or WebP file.")
    if not facts.settings:
        raise SettingsError(f"{image}: {' '.join(facts.notes)} Type the settings instead of --from.")
    if facts.by == SANAKIT:
        _own(recall, facts, image)
    else:
        _foreign(recall, facts)
    recall.fill({option: facts.settings[name] for name, option in _OPTIONS.items() if name in facts.settings})
    sides = (facts.settings.get("width"), facts.settings.get("height"))
    if None not in sides and not {"size", "width", "height"} & recall.typed:
        recall.options["size"] = f"{sides[0]}x{sides[1]}"
    if facts.by != SANAKIT:
        _translate(recall, facts)
    told = context.meta[_TOLD] = [shown(note) for note in recall.notes]
    for note in told:
        print(f"Warning: {note}", file=sys.stderr)
    return recall.options


def told_of(context: typer.Context) -> list[str]:
    """Return what `drawn_again` told in this call of the command; nothing where it was not called."""
    return context.meta.get(_TOLD, [])


def _own(recall: Recall, facts: ImageFacts, image: Path) -> None:
    """Fill in what a file of ours tells besides plain settings."""
    from sanakit.images.settings import GRID
    from sanakit.weights.find.catalog import CATALOG
    from sanakit.weights.fingerprint import first_digits, other_weights

    settings = facts.settings
    if GRID[0] in settings:
        raise SettingsError(
            f"{image} is a grid of images, and --from draws a single one: draw the grid on the page of `sana "
            "ui`, under X/Y grid."
        )
    recall.fill(_OURS_LEFT_OUT)
    name, digits = str(settings["model"]), str(settings.get("fingerprint", ""))
    if "model" not in recall.typed:
        usual = recall.options["model"]
        if name in CATALOG or Path(name).is_dir():
            recall.options["model"] = name
        elif not digits or other_weights(digits, usual, first_digits(usual)):
            known = f" (fingerprint {digits})" if digits else ""
            raise SettingsError(
                f"{image} was drawn by {name!r:.100}{known}, which this installation does not know: give its "
                "folder with --model, or another model."
            )
    model = recall.options["model"]
    if digits:
        recall.notes += other_weights(digits, model, first_digits(model))
    elif model != name:
        recall.notes.append(f"It was drawn by {name:.100}; {model} draws another image.")
    if "seed" not in settings and "seed" not in recall.typed:
        recall.notes.append("It was drawn from noise that no file holds: a random seed is taken.")
    if (version := settings.get("version", __version__)) != __version__:
        recall.notes.append(f"It was drawn by version {version!s:.20}; this is {__version__}.")
    if "strength" in settings:
        recall.notes.append(
            f"It was made from an image at a strength of {settings['strength']}, which no file holds: it is "
            "drawn from noise. sana edit IMAGE PROMPT starts from an image."
        )
    _adapters(recall, str(settings.get("adapters", "")), image)
    _control(recall, str(settings.get("control", "")))


def _adapters(recall: Recall, record: str, image: Path) -> None:
    """Find the recorded adapters here or beside the image; name those that are not."""
    from sanakit.adapters.attach import recorded_uses
    from sanakit.adapters.read import AdapterFile

    typed = "adapter" in recall.typed
    if typed:
        given = {AdapterFile(file).fingerprint for file, _ in parse_adapters(recall.options["adapter"])}
    else:
        given, recall.options["adapter"] = set(), []
    for use in recorded_uses(record):
        places = [folder / Path(use.file).name for folder in (Path(), image.expanduser().parent)]
        found = [
            place for place in places if place.exists() and AdapterFile(place).fingerprint == use.fingerprint
        ]
        if found and not typed:
            recall.options["adapter"].append(f"{found[0]}:{use.weight:g}")
        elif use.fingerprint not in given:
            recall.notes.append(
                f"It was drawn with the adapter {use.file:.100} (fingerprint {use.fingerprint:.12}), which "
                f"is {'not among those given' if typed else 'not here'}: it is left out. Give it with "
                f"--adapter FILE:{use.weight:g}."
            )


def _control(recall: Recall, record: str) -> None:
    """Steer as the file tells, if the image that steered it is given; say so if it is not, or another."""
    from sanakit.images.opening import open_image
    from sanakit.pipelines.control import ControlImage, recorded_controls
    from sanakit.weights.control import controlnets_for
    from sanakit.weights.find.catalog import CONTROLNETS

    controls = recorded_controls(record)
    file = recall.options["control"] if "control" in recall.typed else None
    if not controls:
        return
    if file is None or len(controls) > 1:
        remedy = (
            "give the image with --control" if len(controls) == 1 else "draw it in Python, with all of them"
        )
        recall.notes.append(f"It was steered ({record:.200}) by what its file does not hold: {remedy}.")
        return
    (one,) = controls
    span = (float(one.start), float(one.end)) if one.start else (0.0, 1.0)
    recall.fill({"control_kind": one.kind, "control_scale": float(one.scale), "control_range": span})
    if one.net in CONTROLNETS:
        recall.fill({"control_model": one.net})
    model = recall.options["model"]
    net = control_model_for(model, recall.options["control_model"], file is not None)
    names = [label.rpartition("@")[0] for label in controlnets_for(model, net).values()]
    if one.net and names and one.net not in names:
        recall.notes.append(
            f"It was steered by the ControlNet {one.net:.100}; {names[0]} steers instead: give it with "
            "--control-model."
        )
    given = ControlImage(open_image(file.expanduser(), str(file))).fingerprint
    if one.image and given != one.image:
        recall.notes.append(f"{file} is not the image that steered it: the hash is {given}, not {one.image}.")


def _foreign(recall: Recall, facts: ImageFacts) -> None:
    """Say whose settings they are, and choose the model."""
    from sanakit.weights.find.catalog import CATALOG

    recall.notes += facts.notes[:1]
    if (name := facts.others.get("Model")) in CATALOG:
        recall.fill({"model": name})
    elif name:
        recall.notes.append(
            f"Its model {name:.100} is not a SANA model: {recall.options['model']} draws instead."
        )


def _translate(recall: Recall, facts: ImageFacts) -> None:
    """Bring another program's sampler, tags and weights into our words; name what has none."""
    from sanakit.text.prompt_weights import read_weights, unread_weights

    others = {name: text for name, text in facts.others.items() if name not in (*_SAYS_NOTHING, "Model")}
    for name in ("Sampler", "Solver"):
        if (solver := _SOLVERS.get(others.get(name, ""), others.get(name))) in _SOLVERS.values():
            recall.fill({"solver": solver})
            del others[name]
        elif others.get(name) == "auto":  # of our nodes: the model's own
            del others[name]
    if "prompt" not in recall.typed:
        prompt = str(recall.options["prompt"])
        tags = [
            f"{kind} {name}" + (f" at {weight}" if weight else "")
            for kind, name, weight in _TAG.findall(prompt)
        ]
        if tags:
            others["in the prompt"] = ", ".join(tags)
            recall.options["prompt"] = prompt = " ".join(_TAG.sub("", prompt).split())
        if "prompt_weights" not in recall.typed and unread_weights([prompt]):
            try:
                read_weights(prompt, [])
                recall.options["prompt_weights"] = True
                recall.notes.append("Its weights, such as (word:1.3), are read as --prompt-weights does.")
            except SettingsError as error:
                recall.notes.append(f"Its weights are read as text: {error}")
    if others:
        named = ", ".join(f"{name} {text:.{LENGTH}}" for name, text in others.items())
        recall.notes.append(f"Left out, as sana has no such setting or file: {named}.")
