"""A model's offer to its users: `sana models NAME`. Nothing is loaded or downloaded."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from sanakit.errors import WeightsError
from sanakit.text.known_things import bare_name
from sanakit.weights.about.inspect import describe
from sanakit.weights.find.catalog import CATALOG, CLIP_MODELS, CatalogEntry
from sanakit.weights.find.resolve import SCORER, resolve
from sanakit.weights.known_things import load_known_things
from sanakit.weights.settings import ModelSettings
from sanakit.weights.video.settings import VideoSettings, load_video_settings

DEFAULT = "pocket"  # what the commands draw with where no model is named
DEFAULT_CLIPS = "pocket-video"  # and what clips are drawn with
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
    animated_things: int  # how many of them a model of clips learned from animations
    frames: int  # of a clip; 0: it draws images
    fps: str  # of a clip, a whole number or a fraction
    unsupported: str  # why it cannot be drawn with
    download_bytes: int  # of a release that is not here


def offer(model: str | os.PathLike[str]) -> Offer:
    """Tell what a model offers. model: as for `describe`.

    Raises what that raises, and WeightsError for a part that draws nothing alone.
    """
    found, text = describe(model), os.fspath(model)
    entry = CATALOG.get(found.release)
    clips = _clip_settings(text) if found.kind == "model" and found.settings is None else None
    settings = found.settings or (clips.shared if clips else None)
    if entry is not None and found.kind == "release":
        settings = _of_release(entry)
    if settings is None:
        remedy = "look into it by `sana inspect`"
        if found.kind == "model":
            remedy += ", or walk or edit with it (`sana world`, `sana video --edit`)"
        elif found.kind == "controlnet":
            remedy += ", or steer a model by it with --control-model"
        elif found.kind == SCORER:
            remedy += ", or score with it (`sana data score`, `sana best-of --judge`)"
        raise WeightsError(f"{found.path} draws no images alone: {remedy}.")
    known = load_known_things(settings)
    names = [bare_name(phrase) for phrase in known.phrases[:BEST_KNOWN]] if known else []
    own = text if text in CATALOG or text in CLIP_MODELS else found.path
    examples = settings.example_prompts or ("a red apple",)
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
        commands=tuple(command(prompt, own, clips=clips is not None) for prompt in examples),
        known_things=len(known.things) if known else 0,
        known_words=sum(map(len, known.things.values())) if known else 0,
        some_things=tuple(names[:: -(-len(names) // NAMED)] if names else ()),
        animated_things=len(known.animated) if known else 0,
        frames=clips.frames if clips else 0,
        fps=str(clips.rate) if clips else "",
        unsupported=entry.unsupported if entry else "",
        download_bytes=found.download_bytes,
    )


def command(prompt: str, model: str | None = None, *, clips: bool = False) -> str:
    """Return the command that draws a prompt, for a POSIX shell. model: None: the default. clips: as a clip.

    >>> command("a red apple"), command("a fox", "sana-1.6b-1024")
    ('sana generate "a red apple"', 'sana generate "a fox" --model sana-1.6b-1024')
    """
    plain = not set(prompt) & set('"$`\\!\n')
    words = ["sana", "video" if clips else "generate", f'"{prompt}"' if plain else shlex.quote(prompt)]
    named = model not in (None, DEFAULT_CLIPS if clips else DEFAULT)
    return " ".join(words + (["--model", shlex.quote(model)] if model and named else []))


def _clip_settings(model: str) -> VideoSettings | None:
    """Return the defaults of a model that draws clips of prompts; None for one that does something else."""
    if not resolve(model, ()).makes_clips:
        return None
    try:
        return load_video_settings(model)
    except WeightsError:  # of worlds, or of edits
        return None


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
