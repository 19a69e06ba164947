"""TrigFlow: the parametrisation of distilled consistency models, computed from a flow model.

    x = cos(s) x0 + sin(s) noise        F = dx/ds = cos(s) noise - sin(s) x0        s in [0, pi/2]

Its path is a quarter of a circle where ours is a straight line, so its points keep their ends' variance. Both
pass the same mixtures of image and noise, so the conversion is exact and needs no training: scale the point,
run the flow model at the time of the same mixture, and place its two end points on the circle. The published
code writes x with a factor sigma_data = 0.5, which it takes out again before its model sees it; here it is
left out. Distilling needs this; sampling does without (`flow/scm.py`).
Source: SANA-Sprint (arXiv:2503.09641), section 3.1; Lu and Song 2024, sCM (arXiv:2410.11081).
Shapes: B batch, ... any further axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sanakit.flow.guidance import Velocity
from sanakit.flow.path import clean_from_velocity, noise_from_velocity, trig_to_flow_time


def on_circle(clean: Tensor, noise: Tensor, angle: Tensor) -> Tensor:
    """Return the point of the circle between clean latents and noise: cos(s) clean + sin(s) noise.

    clean, noise: (B, ...), equal shapes. angle: (B,), in [0, pi/2], pi/2 = pure noise. Returns (B, ...).
    """
    cos, sin = cos_sin(angle, clean)
    return cos * clean + sin * noise


def clean_from_prediction(sample: Tensor, prediction: Tensor, angle: Tensor) -> Tensor:
    """Return the clean latents in sight of a prediction F at an angle: cos(s) x - sin(s) F.

    sample, prediction: (B, ...). angle: (B,), in [0, pi/2]. Returns (B, ...).
    """
    cos, sin = cos_sin(angle, sample)
    return cos * sample - sin * prediction


def cos_sin(angle: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of angles, one or (B,), with axes of length 1 to broadcast over (B, ...)."""
    angle = angle.reshape(-1, *[1] * (like.ndim - 1))
    return angle.cos(), angle.sin()


def trigflow(velocity: Velocity) -> Velocity:
    """Return TrigFlow's prediction F(x, s) of a model that gives the velocity of the straight path.

    velocity: takes samples (B, ...) and times in [0, 1], one or (B,).
    Returns a function of samples (B, ...) on the circle and angles in [0, pi/2], one or (B,), 0 = clean; with
    it the clean image in sight is cos(s) x - sin(s) F. Differentiable in both, forwards and backwards.

    >>> def towards_zeros(sample, t):  # x0 = 0: all of the sample is noise
    ...     return sample / t
    >>> trigflow(towards_zeros)(torch.ones(1, 2), torch.tensor([torch.pi / 4]))
    tensor([[1.0000, 1.0000]])
    """

    def prediction(sample: Tensor, angle: float | Tensor) -> Tensor:
        angle = torch.as_tensor(angle, dtype=sample.dtype, device=sample.device)
        t = trig_to_flow_time(angle)
        cos, sin = cos_sin(angle, sample)
        straight = sample / (cos + sin)
        v = velocity(straight, t)
        return cos * noise_from_velocity(straight, v, t) - sin * clean_from_velocity(straight, v, t)

    return prediction
