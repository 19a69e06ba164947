"""Guidance: turn a velocity function into one that follows the prompt more closely.

A velocity function is `velocity(latents, t) -> velocity of the same shape`; everything else it needs (model,
text) is bound into it. Guidance wraps one such function and returns another, so solvers and pipelines need
not know.
Source: Ho and Salimans 2022, classifier-free guidance (arXiv:2207.12598).
Shapes: B batch, C H W latent grid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from sanakit.errors import SettingsError, of_setting

Velocity = Callable[[Tensor, float | Tensor], Tensor]  # one time, or one for each sample (B,)


def classifier_free(velocity: Velocity, scale: float | Tensor) -> Velocity:
    """Return the guided velocity u + scale (c - u) of a function that answers for both prompts at once.

    velocity: takes latents (B, C, H, W) and gives 2B of them: the first half without the prompt (or with the
    negative prompt) is u, the second half with the prompt is c. `Sana.velocity` does so if the context has
    both; up to where text comes in, it computes the two as one.
    scale: finite, >= 0. 0 follows u, 1 follows c, SANA uses 4.5. Callers skip guidance for scale <= 1 and
    evaluate c alone, as the published pipeline does: that costs half as much. A tensor (B,), checked by its
    owner, has one for each sample.
    Returns a velocity function on (B, C, H, W); its result is float32, or float64 where the velocity is.
    Raises SettingsError for a scale that is negative, infinite or not a number.

    >>> guided = classifier_free(lambda latents, t: torch.tensor([1.0, 2.0]), scale=3.0)
    >>> guided(torch.zeros(1), 0.5)
    tensor([4.])
    """
    if isinstance(scale, Tensor):
        scale = scale.reshape(-1, 1, 1, 1)
    else:
        check_scale(scale)

    def guided(latents: Tensor, t: float | Tensor) -> Tensor:
        both = velocity(latents, t)  # 2B C H W
        # u and c are close: their difference, amplified by the scale, must not be taken in half precision
        both = both.to(torch.promote_types(both.dtype, torch.float32))
        unconditional, conditional = both.chunk(2)
        return extrapolated(unconditional, conditional, scale)

    return guided


def extrapolated(u: Tensor, c: Tensor, scale: float | Tensor) -> Tensor:
    """Return u + scale (c - u): from the velocity without the prompt, through that with it, and beyond."""
    return u + scale * (c - u)


@of_setting("guidance")
def check_scale(scale: float, usual: float = 4.5) -> None:
    """Raise SettingsError unless a guidance scale is a finite number of 0 or more. usual: the model's."""
    if not 0 <= scale <= sys.float_info.max:  # false for NaN, and for whole numbers that no float can hold
        raise SettingsError(
            f"guidance = {scale}, but it must be a finite number of 0 or more; "
            f"{usual:g} is usual, 1 switches it off."
        )
