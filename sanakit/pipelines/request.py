"""One call of a pipeline, checked and complete before any work begins.

Shapes: B pictures, C h w latents.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.dpm import FlowDPM
from sanakit.flow.euler import Euler
from sanakit.flow.schedule import dpm_times, euler_times
from sanakit.pipelines.images import Metadata

Output = Literal["pil", "pt", "latent"]

MAX_IMAGES = 256  # of one call
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One call, checked and complete."""

    prompts: list[str]
    counts: list[int]  # pictures of each prompt
    negative_prompt: str
    guidance: float
    solver: Any  # FlowDPM or Euler, which share their interface
    seeds: list[int]  # one a picture; empty where the caller gave the noise
    cells: tuple[int, int, int]  # C h w of what is drawn
    latents: Tensor | None  # B C h w, the caller's own noise
    size: tuple[int, int]  # height and width that were asked for, pixels
    output: Output
    metadata: list[Metadata]  # one a picture

    @property
    def guided(self) -> bool:
        """Whether the unconditional half is computed too: at a scale of 1 and below it plays no part."""
        return self.guidance > 1


def make_sampler(solver: str, steps: int, shift: float) -> FlowDPM | Euler:
    """Give the solver called so, with its times. Raises SettingsError."""
    if solver == "dpm":
        return FlowDPM(dpm_times(steps, shift))
    if solver == "euler":
        return Euler(euler_times(steps, shift))
    raise SettingsError(f'solver = {solver!r}, but it must be "dpm" (usual) or "euler".')


def checked_prompts(prompt: str | Sequence[str], negative_prompt: str) -> list[str]:
    """Give the prompts as a list. Raises SettingsError."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not 1 <= len(prompts) <= MAX_IMAGES:
        raise SettingsError(
            f"The prompt is {reprlib.repr(prompt)}; it must be a text, or a list of 1 to {MAX_IMAGES} texts."
        )
    for text in [*prompts, negative_prompt]:
        if not isinstance(text, str):
            raise SettingsError(f"A prompt is {reprlib.repr(text)}, but prompts are texts.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise SettingsError("A prompt holds a lone surrogate: type it anew, in a terminal set to UTF-8.")
    return list(prompts)


def whole_number(name: str, value: int, lowest: int, highest: int) -> int:
    """Give the value back if it is a whole number in the range. Raises SettingsError."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise SettingsError(f"{name} = {value!r}, but it must be a whole number from {lowest} to {highest}.")
    return value


def check_latents(latents: Tensor, shape: tuple[int, ...]) -> None:
    """Raise SettingsError unless the caller's noise has the shape and is finite."""
    fits = isinstance(latents, Tensor) and latents.is_floating_point() and tuple(latents.shape) == shape
    if not fits or not bool(torch.isfinite(latents).all()):
        came = f"{latents.dtype} {tuple(latents.shape)}" if isinstance(latents, Tensor) else type(latents)
        raise SettingsError(f"latents came as {came}, but they must be finite floats of the shape {shape}.")


def result_bytes(output: Output, drawn: tuple[int, int], size: tuple[int, int]) -> int:
    """Give the most bytes that one picture's result takes: drawn at one size in pixels, given at another."""
    if output == "latent":
        return 0
    floats, levels = 12, 3  # of a pixel
    whole = floats if output == "pt" else levels if drawn == size else 2 * floats + levels
    return whole * max(drawn[0] * drawn[1], size[0] * size[1])


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise of each seed, (len(seeds), *shape) float32; alike for every device."""
    each = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(*shape, generator=g, device="cpu", dtype=torch.float32) for g in each])
