"""Clips: the node that loads a video model, and text, image or clip to clip as one node each.

A clip between nodes is ComfyUI's: its frames as one IMAGE, and frames a second. ComfyUI's own Create Video
and Save Video make files of them, Load Video and Get Video Components make them of files.
Shapes: T frames, H W pixels.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.clips.counts import as_rate
from sanakit.comfy import host
from sanakit.comfy.loader import FOLDERS, NONE
from sanakit.comfy.tensors import from_frames, to_frames, to_images
from sanakit.comfy.widgets import (
    AUTO,
    CATEGORY,
    DTYPE,
    GUIDANCE,
    GUIDANCE_KIND,
    MEMORY,
    PROMPT,
    PROMPT_WEIGHTS,
    SEED,
    STEPS,
    settings,
    side,
    strength_widget,
)
from sanakit.errors import SettingsError
from sanakit.pipelines.image_to_image import STRENGTH
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.weights.find.catalog import clip_models_here
from sanakit.weights.video.settings import MOST_FRAMES, MOST_MOTION

CLIP_MODEL = ("SANAKIT_CLIP_MODEL", {"tooltip": "A model of the node Load SANA video model."})
NEGATIVE = (
    "STRING",
    {"multiline": True, "default": AUTO, "tooltip": "What to avoid. auto: the model's own; empty: nothing."},
)
FRAMES = (
    "INT",
    {"default": 0, "min": 0, "max": MOST_FRAMES, "tooltip": "4 k + 1 or 8 k + 1. 0: the model's default."},
)
FPS = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 240.0, "step": 0.01, "round": 0.001})
OWN_FPS = (FPS[0], {**FPS[1], "tooltip": "Frames a second of the result. 0: the model's default."})
MOTION = (
    "INT",
    {"default": -1, "min": -1, "max": MOST_MOTION, "tooltip": "How much moves. -1: the model's default."},
)
SOLVERS = (AUTO, "dpm", "euler")
SOLVER = (list(SOLVERS), {"default": AUTO, "tooltip": "auto: the model's default."})
DRAWING = {"seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "solver": SOLVER, "motion": MOTION}
SIZE = {"width": side("Width"), "height": side("Height")}
MORE = {"guidance_kind": GUIDANCE_KIND, "prompt_weights": PROMPT_WEIGHTS}
RETURN_TYPES, RETURN_NAMES = ("IMAGE", "FLOAT"), ("frames", "fps")
OUTPUT_TOOLTIPS = ("The frames, for Create Video.", "Frames a second, for Create Video.")


class LoadClipModel:
    """Load a video model with all its parts, and keep it as long as ComfyUI keeps this node's result."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads a SANA-Video or LongSANA model: an embedded one, a folder, or one from the Hub."
    RETURN_TYPES = ("SANAKIT_CLIP_MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model, for the video nodes of this pack.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs; asked again whenever the page is loaded, so new folders show up."""
        names = [*clip_models_here(), NONE]
        names += [FOLDERS + name for name in host.model_folders(clips=True)]
        where = "A diffusers folder, or a Hub organisation/name; overrides model. The Hub: gigabytes."
        return {
            "required": {
                "model": (
                    names,
                    {"default": names[0], "tooltip": "Or one of models/diffusers, or path."},
                )
            },
            "optional": {
                "path": ("STRING", {"default": "", "tooltip": where}),
                "dtype": DTYPE,
                "memory": MEMORY,
            },
        }

    def load(self, model: str, path: str = "", dtype: str = AUTO, memory: str = AUTO) -> tuple[TextToVideo]:
        """Load it onto the device that ComfyUI uses. Raises as `TextToVideo.from_pretrained` does."""
        source: Any = path.strip() or (model if model in clip_models_here() else None)
        source = source or host.model_folders(clips=True).get(model.removeprefix(FOLDERS))
        if source is None:
            gone = f"{model} left ComfyUI's models/diffusers" if model != NONE else "No video model is named"
            raise SettingsError(
                f"{gone}: choose one of models/diffusers, or set path to a folder or a Hub repository."
            )
        pipe = TextToVideo.from_pretrained(
            source, device=host.device(), dtype=dtype, memory=memory.strip() or AUTO
        )
        return (pipe,)


class DrawClip:
    """A prompt to a clip."""

    CATEGORY, FUNCTION = CATEGORY, "draw"
    DESCRIPTION = "Draws a clip of a prompt: all its frames as one IMAGE, for Create Video."
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        own = {"frames": FRAMES, "fps": OWN_FPS, **SIZE}
        text = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
        return {"required": {"model": CLIP_MODEL, **text, **DRAWING, **own}, "optional": MORE}

    def draw(
        self,
        model: TextToVideo,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        solver: str,
        motion: int,
        frames: int,
        fps: float,
        width: int,
        height: int,
        guidance_kind: str = "",
        prompt_weights: bool = False,
    ) -> tuple[Tensor, float]:
        """Draw as `TextToVideo` does. Raises as that does."""
        given = {**settings(steps, guidance, solver, guidance_kind), "seed": seed, "frames": frames or None}
        given |= {"width": width or None, "height": height or None, "rate": fps or None}
        return _drawn(model, prompt, negative_prompt, motion, prompt_weights=prompt_weights, **given)


class AnimateImage:
    """An image and a prompt to a clip that begins with it."""

    CATEGORY, FUNCTION = CATEGORY, "draw"
    DESCRIPTION = "Draws a clip that begins with an image; without a size it has the image's shape."
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        own = {"frames": FRAMES, "fps": OWN_FPS, **SIZE}
        text = {"image": ("IMAGE",), "prompt": PROMPT, "negative_prompt": NEGATIVE}
        return {"required": {"model": CLIP_MODEL, **text, **DRAWING, **own}, "optional": MORE}

    def draw(
        self,
        model: TextToVideo,
        image: Tensor,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        solver: str,
        motion: int,
        frames: int,
        fps: float,
        width: int,
        height: int,
        guidance_kind: str = "",
        prompt_weights: bool = False,
    ) -> tuple[Tensor, float]:
        """Draw as `TextToVideo` does. Raises as that does, and SettingsError for several images."""
        images = to_images(image)
        if len(images) != 1:
            raise SettingsError(f"{len(images)} images came to begin one clip with: connect a single one.")
        given = {**settings(steps, guidance, solver, guidance_kind), "seed": seed, "frames": frames or None}
        given |= {"width": width or None, "height": height or None, "rate": fps or None, "image": images[0]}
        return _drawn(model, prompt, negative_prompt, motion, prompt_weights=prompt_weights, **given)


class RedrawClip:
    """A clip and a prompt to a clip."""

    CATEGORY, FUNCTION = CATEGORY, "draw"
    DESCRIPTION = "Redraws a clip; strength sets how much. Frames at its end that do not fit are left out."
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs."""
        came = (FPS[0], {**FPS[1], "default": 16.0, "min": 1.0, "tooltip": "Of the clip; it keeps them."})
        own = {
            "frames": FRAMES,
            "fps": came,
            "strength": strength_widget(STRENGTH, "0 keeps it, 1 ignores it."),
        }
        text = {"images": ("IMAGE",), "prompt": PROMPT, "negative_prompt": NEGATIVE}
        return {"required": {"model": CLIP_MODEL, **text, **DRAWING, **own}, "optional": MORE}

    def draw(
        self,
        model: TextToVideo,
        images: Tensor,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        guidance: float,
        solver: str,
        motion: int,
        frames: int,
        fps: float,
        strength: float,
        guidance_kind: str = "",
        prompt_weights: bool = False,
    ) -> tuple[Tensor, float]:
        """Draw as `TextToVideo` does. Raises as that does."""
        clip = VideoClip(frames=to_frames(images), rate=as_rate(fps))
        given = {**settings(steps, guidance, solver, guidance_kind), "seed": seed, "frames": frames or None}
        given |= {"clip": clip, "strength": strength}
        return _drawn(model, prompt, negative_prompt, motion, prompt_weights=prompt_weights, **given)


def _drawn(
    model: TextToVideo, prompt: str, negative_prompt: str, motion: int, **given: Any
) -> tuple[Tensor, float]:
    """Draw one clip on a progress bar; return its frames as an IMAGE, and frames a second."""
    host.stop_if_interrupted()
    negative = None if negative_prompt.strip() == AUTO else negative_prompt
    progress = host.NodeProgress()
    result = None
    for step in model.steps(prompt, negative, motion=None if motion == -1 else motion, **given):
        progress.show(step.index, max(step.total, 1), step.preview)
        result = step.result
    assert result is not None, "the last step carries it"
    [clip] = cast(list[VideoClip], result.clips)  # the default output, "clip"
    return from_frames(clip.frames), float(clip.rate)
