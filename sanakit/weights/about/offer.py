"""A model's offer to its users: `sana models NAME`. Nothing is loaded or downloaded."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from sanakit.errors import WeightsError
from sanakit.text.known_things import bare_name
from sanakit.weights.about.inspect import describe
from sanakit.weights.find.catalog import CATALOG, CatalogEntry
from sanakit.weights.known_things import load_known_things
from sanakit.weights.settings import ModelSettings

DEFAULT = "pocket"  # what the commands draw with where no model is named
NAMED, BEST_KNOWN = 12, 120  # how many things are named, out of how many at the head of the list


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A model for people. Empty where the model does not say."""

    name: str
    path: str  # its folder, or the address of a release that is not here
    licence: str
    languages: str
    width: int  # pixels; this and the next: where the caller does not say
    height: int
    steps: int
    guidance: float
    solver: str
    sizes: tuple[tuple[int, int], ...]  # width and height that it learned
    styles: dict[str, str]  # name -> words that a prompt ends with
    control_models: tuple[str, ...]  # embedded ControlNets that steer it
    example_prompts: tuple[str, ...]
    commands: tuple[str, ...]  # the example prompts, ready for a shell
    known_things: int  # how many
    known_words: int  # further words for them
    some_things: tuple[str, ...]
    unsupported: str  # why it cannot be drawn with
    download_bytes: int  # of a release that is not here


def offer(model: str | os.PathLike[str]) -> Offer:
    """Tell what a model offers. model: as for `describe`.

    Raises what that raises, and WeightsError for a part that draws nothing alone.
    """
    found, text = describe(model), os.fspath(model)
    entry = CATALOG.get(found.release)
    settings = found.settings or (_of_release(entry) if entry and found.kind == "release" else None)
    if settings is None:
        remedy = "look into it by `sana inspect`"
        if found.kind == "model":
            remedy += ", or draw clips by `sana video`"
        elif found.kind == "controlnet":
            remedy += ", or steer a model by it with --control-model"
        raise WeightsError(f"{found.path} draws no images alone: {remedy}.")
    known = load_known_things(settings)
    names = [bare_name(phrase) for phrase in known.phrases[:BEST_KNOWN]] if known else []
    own = text if text in CATALOG else found.path
    return Offer(
        name=settings.name,
        path=found.path,
        licence=found.licence,
        languages=entry.languages if entry else "",
        width=settings.width,
        height=settings.height,
        steps=settings.steps,
        guidance=settings.guidance,
        solver=settings.solver,
        sizes=settings.sizes,
        styles=dict(settings.styles),
        control_models=settings.control_models,
        example_prompts=settings.example_prompts,
        commands=tuple(command(prompt, own) for prompt in settings.example_prompts or ("a red apple",)),
        known_things=found.known_things,
        known_words=found.known_words,
        some_things=tuple(names[:: -(-len(names) // NAMED)] if names else ()),
        unsupported=entry.unsupported if entry else "",
        download_bytes=found.download_bytes,
    )


def command(prompt: str, model: str = DEFAULT) -> str:
    """Return the command that draws a prompt, for a POSIX shell.

    >>> command("a red apple"), command("a fox", "sana-1.6b-1024")
    ('sana generate "a red apple"', 'sana generate "a fox" --model sana-1.6b-1024')
    """
    plain = not set(prompt) & set('"$`\\!\n')
    words = ["sana", "generate", f'"{prompt}"' if plain else shlex.quote(prompt)]
    return " ".join(words + ([] if model == DEFAULT else ["--model", shlex.quote(model)]))


def _of_release(entry: CatalogEntry) -> ModelSettings:
    """Return the settings of a release that is not here, as far as the catalog tells them."""
    return ModelSettings(
        name=entry.name,
        steps=entry.steps,
        guidance=entry.guidance,
        width=entry.width,
        height=entry.height,
        solver=entry.solver,
    )
