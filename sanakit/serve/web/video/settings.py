"""Settings of a clip in the forms that the page shows: controls, a command line, a dropped clip.

Plain functions of a model's VideoSpec and of the settings that every clip carries; nothing here knows Gradio
or the engine.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sanakit.clips.reading import open_clip
from sanakit.errors import SettingsError
from sanakit.images.image import Metadata
from sanakit.pipelines.video.chunk_request import FEW_STEP
from sanakit.pipelines.video.request import VideoSpec, check_clip_request
from sanakit.serve.web.settings import CUSTOM, drawn_by, parse_seed, sizes

SOURCE = "image.png"  # stands for the visitor's file, whose place only they know
LONGER = 4  # times the model's own length: as far as the slider goes
SAMPLING = ("negative_prompt", "steps", "guidance", "guidance_kind", "solver")  # not of distilled models
_OF_CLIPS = ("prompt", "model", "frames", "width", "height", "steps", "motion")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipWish:
    """The controls' values when the button is pressed; None: the model has no such setting."""

    model: str
    prompt: str
    image: Image.Image | None = None  # the first frame
    frames: int
    width: int | None  # None: in the shape of the image
    height: int | None
    rate: float  # frames a second
    motion: int
    seed: str
    prompt_weights: bool = False
    negative_prompt: str | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_kind: str | None = None
    solver: str | None = None

    def words(self) -> dict[str, Any]:
        """Return the keyword arguments of `ClipEngine.check`. Raises SettingsError."""
        if not self.prompt.strip():
            raise SettingsError("Write what to draw, such as “a cat waves”.", setting="prompt")
        shared = {name: getattr(self, name) for name in self.__slots__}
        return shared | {"seed": parse_seed(self.seed), "guidance_kind": self.guidance_kind or None}


def is_distilled(spec: VideoSpec) -> bool:
    """Return whether a model has fixed few steps and no guidance, so that SAMPLING is not offered."""
    return spec.causal and spec.settings.chunks.times is not None


def video_sizes(spec: VideoSpec) -> dict[str, tuple[int, int]]:
    """Return the sizes that are offered: name with pixels -> (width, height), the model's own first."""
    own = spec.settings.shared
    others = sizes(spec.of_images(unit=spec.unit))
    if own.sizes:
        return others
    first = own.width, own.height
    return {f"Own  {own.width} × {own.height}": first} | {k: v for k, v in others.items() if v != first}


def video_size_choices(spec: VideoSpec) -> list[str]:
    """Return the names of a model's sizes; any other may be typed where its folder lists none."""
    return [*video_sizes(spec), *([] if spec.settings.shared.sizes else [CUSTOM])]


def most_frames(spec: VideoSpec) -> int:
    """Return how many frames the slider ends at: some times the model's own, if it knows so many."""
    latents = LONGER * spec.rule.latents(spec.settings.frames)
    return spec.rule.frames(min(latents, spec.max_positions))


def frames_label(spec: VideoSpec, frames: int, rate: float | None = None) -> str:
    """Return the label of the slider of frames, with how long they last. rate: None: the model's own."""
    seconds = (frames - 1) / (rate or float(spec.settings.rate))
    return f"Frames ({seconds:.3g} s)"


def clip_settings_of(
    path: str | os.PathLike[str], specs: Mapping[str, VideoSpec], chosen: str
) -> tuple[Metadata, str, list[str]]:
    """Read the settings of an uploaded clip, which anyone may have written.

    Returns them with "rate", the model that draws them (its own if it is here, else the chosen one), and what
    is told of a clip that the page does not draw again by its settings alone. Raises SettingsError.
    """
    with open_clip(path) as file:
        found, rate = dict(file.facts.settings), file.facts.rate
    if not all(name in found for name in _OF_CLIPS):
        raise SettingsError("This clip carries no settings: use one that was drawn here or by `sana video`.")
    model, notes = drawn_by(found, {name: spec.of_images() for name, spec in specs.items()}, chosen)
    if "begins_with" in found:
        notes.append("It began with an image, which no file keeps: choose that image again.")
    if "redraws" in found:
        notes.append("It was redrawn from a clip, which `sana video --clip` alone does.")
    spec = specs[model]
    parse_seed(str(found.get("seed", "")))
    drawn: dict[str, Any] = {name: found.get(name) for name in ("frames", "width", "height", "motion")}
    if not is_distilled(spec):
        drawn |= {name: found.get(name) for name in SAMPLING if found.get(name) != FEW_STEP}
    drawn |= {"prompt": str(found["prompt"]), "rate": rate.limit_denominator(1001)}
    check_clip_request(spec, **drawn)
    return found | {"rate": float(rate)}, model, notes


def command_line(metadata: Metadata, rate: str, spec: VideoSpec) -> str:
    """Return the `sana video` command that draws a clip again, quoted for a POSIX shell.

    An image that it began with cannot be known to a server: `image.png` stands for it.
    """
    prompt = str(metadata["prompt"])
    options = {
        "--model": metadata["model"],
        "--image": SOURCE if "begins_with" in metadata else None,
        "--frames": metadata["frames"],
        "--size": f"{metadata['width']}x{metadata['height']}",
        "--fps": rate,
        "--motion": metadata["motion"],
        "--dialect": metadata.get("dialect"),
        "--seed": metadata.get("seed"),
    }
    if not is_distilled(spec):
        options |= {
            "--negative": metadata.get("negative_prompt", ""),
            "--steps": metadata["steps"],
            "--guidance": metadata.get("guidance"),
            "--guidance-kind": metadata.get("guidance_kind"),
            "--solver": metadata.get("solver"),
        }
    # = keeps a value that begins with a hyphen from being read as an option; so does -- before the prompt.
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    given += ["--prompt-weights"] if metadata.get("prompt_weights") else []
    arguments = [*given, "--", prompt] if prompt.startswith("-") else [prompt, *given]
    return shlex.join(["sana", "video", *arguments])
