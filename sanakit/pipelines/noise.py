"""The noise of a seed, alike on every device, and the caller's own in its place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sanakit.errors import SettingsError


def first_noise(seed: int, shape: Sequence[int]) -> tuple[Tensor, Generator]:
    """Standard normal noise of a seed, float32 and alike for every device; and what draws the next noise."""
    generator = Generator("cpu").manual_seed(seed)
    return torch.randn(*shape, generator=generator, device="cpu", dtype=torch.float32), generator


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return the first noise of each seed, (len(seeds), *shape)."""
    return torch.stack([first_noise(seed, shape)[0] for seed in seeds])


def check_latents(latents: Tensor, shape: tuple[int, ...]) -> None:
    """Raise SettingsError unless the caller's noise has the shape and is finite."""
    fits = isinstance(latents, Tensor) and latents.is_floating_point() and tuple(latents.shape) == shape
    if not fits or not bool(torch.isfinite(latents).all()):
        came = f"{latents.dtype} {tuple(latents.shape)}" if isinstance(latents, Tensor) else type(latents)
        raise SettingsError(f"latents are {came}, but they must be finite floats of the shape {shape}.")
