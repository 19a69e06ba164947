"""Inputs that several nodes share, as ComfyUI declares them: (type, {default, range, tooltip}).

ComfyUI's widgets always hold a value; 0, -1 and auto say that the model shall choose.
"""

from __future__ import annotations

from typing import Any, TypedDict

from sanakit.images.image import MAX_SIDE
from sanakit.pipelines.request import MAX_IMAGES, MAX_SEED

CATEGORY = "SANA"
AUTO = "auto"
SOLVERS = (AUTO, "dpm", "euler", "scm")

DTYPE = (
    [AUTO, "float32", "bfloat16", "float16"],
    {"default": AUTO, "tooltip": "auto: the dtype that the model was trained for."},
)
MEMORY = (
    "STRING",
    {
        "default": AUTO,
        "tooltip": 'Memory limit: a size such as "8GB"; auto: what is free; all: keep everything.',
    },
)
MODEL = ("SANAKIT_MODEL", {"tooltip": "A model of the node Load SANA model."})
PROMPT = ("STRING", {"multiline": True, "default": "a red apple", "tooltip": "What to draw."})
NEGATIVE_PROMPT = (
    "STRING",
    {
        "multiline": True,
        "default": "",
        "tooltip": "What to avoid; needs guidance above 1. Sprint models take none.",
    },
)
PROMPT_WEIGHTS = (
    "BOOLEAN",
    {"default": False, "tooltip": "Read (red:1.5) in the prompts as a weight of these words."},
)
SEED = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": MAX_SEED,
        "control_after_generate": True,
        "tooltip": "Image i of a batch uses seed + i, so it is the same alone and in a batch.",
    },
)
STEPS = ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the model's default."})
GUIDANCE = (
    "FLOAT",
    {
        "default": -1.0,
        "min": -1.0,
        "max": 100.0,
        "step": 0.1,
        "round": 0.01,
        "tooltip": "How closely to follow the prompt. -1: the model's default; 0 to 1: off, twice as fast.",
    },
)
SOLVER = (
    list(SOLVERS),
    {
        "default": AUTO,
        "tooltip": "auto: the model's default. dpm needs fewer steps than euler; scm is for Sprint.",
    },
)
GUIDANCE_KIND = (
    "STRING",
    {
        "default": "",
        "tooltip": "Such as apg,interval=0.2-0.9; SANA guidance kind writes it. Empty: the model's own.",
    },
)
CONTROL = ("SANAKIT_CONTROL", {"tooltip": "Of the node SANA control: a hint and its ControlNet."})
BATCH_SIZE = ("INT", {"default": 1, "min": 1, "max": MAX_IMAGES, "tooltip": "Images drawn at once."})
OWN_STRENGTH = -1.0  # of all steps of a SANA-Sprint model, a fixed share is soon all


class Chosen(TypedDict):
    """Settings as the pipelines read them; None means the model's default."""

    steps: int | None
    guidance: float | None
    guidance_kind: str | None
    solver: str | None


def side(name: str) -> tuple[str, dict[str, Any]]:
    """Return the input of a width or height in pixels."""
    tooltip = f"{name} in pixels, a multiple of 32. 0: the model's default."
    return ("INT", {"default": 0, "min": 0, "max": MAX_SIDE, "step": 32, "tooltip": tooltip})


def strength_widget(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    """Return the input of a strength. default: `OWN_STRENGTH` where the model may choose, or from 0 to 1."""
    bounds = {"min": min(default, 0.0), "max": 1.0, "step": 0.01, "round": 0.001}
    return ("FLOAT", {"default": default, **bounds, "tooltip": tooltip})


def settings(steps: int, guidance: float, solver: str, guidance_kind: str) -> Chosen:
    """Return what four widgets say as the pipelines read it."""
    return {
        "steps": steps or None,
        "guidance": None if guidance == -1 else guidance,
        "guidance_kind": guidance_kind.strip() or None,
        "solver": None if solver == AUTO else solver,
    }
