"""sCM, SANA-Sprint's first loss: from any place of its teacher's path, a student points at the end.

On TrigFlow's circle x = cos(s) x0 + sin(s) noise, a teacher's dx/ds = D leads along a path; a consistency
model's cos(s) x - sin(s) F(x, s) is the same all along it. Its derivative along the path is to vanish:

    tangent  g = -cos(s)^2 (F - D) - r cos(s) sin(s) (x + dF/ds)         F and dF/ds without gradients
             g <- g / (|g| + floor)                                       |g| of all values of one sample
    loss     exp(-u) / (sigma_data tan(s)) mean (F - sg(F) - g)^2 + u     mean of one sample's values

dF/ds is the whole derivative, along (D, 1). r grows from 0 to 1 over the first updates: at 0 the student only
copies the teacher's D, and the term with r is the consistency. u(s, guidance) is learned and makes the loss
of all angles equally large: exp(u) is the weighted square that it expects.
D is the teacher's guided prediction; its scale w is an input of the student and is drawn for each sample.

Source: Lu and Song 2024, sCM (arXiv:2410.11081), section 4; SANA-Sprint (arXiv:2503.09641), section 3.2. The
published code scales latents by sigma_data = 0.5, which is left out here (`flow/trigflow.py`). It stays in
three constants: the angles' distribution, the loss's weight, and the floor of 0.1, which is 0.2 here.
Shapes: B samples, ... any further axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.guidance import classifier_free
from sanakit.flow.trigflow import cos_sin, trigflow
from sanakit.models.sana import Sana
from sanakit.train.distill.derivative import Kind, Network, derivative_along

SIGMA_DATA = 0.5  # of the published code's latents


@dataclass(frozen=True, kw_only=True, slots=True)
class Consistency:
    """Settings of sCM; the defaults are the published ones.

    mean, std: of the logarithm of the noise level sigma_data tan(s), which is normal. guidance: scales of
    which one is drawn for each sample. warmup: updates of the student in which r grows from 0 to `ramp_to`;
    the published 4,000 count the heads' updates between. floor: of the tangent's norm. derivative: see
    `derivative.py`. For ablations: weight: of the loss, 0 leaves LADD alone. ramp_to: r after the warm-up, 0
    leaves the teacher's direction alone. normalise: whether the tangent is divided by its norm. Raises
    SettingsError.
    """

    mean: float = 0.2
    std: float = 1.6
    guidance: tuple[float, ...] = (4.0, 4.5, 5.0)
    warmup: int = 2000
    floor: float = 0.2
    derivative: Kind = "exact"
    weight: float = 1.0
    ramp_to: float = 1.0
    normalise: bool = True

    def __post_init__(self) -> None:
        if not self.guidance or not all(0 < scale < math.inf for scale in self.guidance):
            raise SettingsError(
                f"guidance = {self.guidance!r}, but it must be scales above 0, such as 4, 4.5 and 5."
            )
        if self.warmup < 0 or self.floor <= 0 or self.std < 0:
            raise SettingsError(
                f"warmup = {self.warmup}, floor = {self.floor}, std = {self.std}: warm-up and std must not "
                "be negative, and the floor must be above 0."
            )
        if not 0 <= self.weight < math.inf or not 0 <= self.ramp_to <= 1:
            raise SettingsError(
                f"weight = {self.weight}, ramp_to = {self.ramp_to}: use a weight of at least 0, and a ramp "
                "to a number from 0 to 1."
            )

    def ramp(self, update: int) -> float:
        """Return r at an update of the student, from 0 on."""
        return self.ramp_to * (min(1.0, update / self.warmup) if self.warmup else 1.0)


def angles(normal: Tensor, mean: float, std: float) -> Tensor:
    """Return angles whose noise level, sigma_data tan(s), is log-normal. normal: standard normal numbers."""
    return torch.atan(torch.exp(mean + std * normal) / SIGMA_DATA)


def guided_teacher(teacher: Sana, text: Tensor, mask: Tensor, guidance: Tensor) -> Network:
    """Return a flow teacher's guided prediction D(x, s), where guidance is taken at any time, without graph.

    text: B L E. mask: B L. Without a caption, all of it but the first feature is hidden. guidance: B, > 0.
    """
    without = mask.clone()
    without[:, 1:] = False
    both_text, both_mask = text.repeat(2, 1, 1), torch.cat([without, mask])

    def velocity(latents: Tensor, t: float | Tensor) -> Tensor:
        times = torch.as_tensor(t, device=latents.device, dtype=latents.dtype).reshape(-1).repeat(2)
        return teacher(latents.repeat(2, 1, 1, 1), times, both_text, both_mask)

    return torch.no_grad()(trigflow(classifier_free(velocity, guidance)))


def student_prediction(student: Sana, text: Tensor, mask: Tensor, guidance: Tensor) -> Network:
    """Return a student's prediction F(x, s) for its captions and guidance scales (B), with gradients."""

    def velocity(latents: Tensor, t: float | Tensor) -> Tensor:
        assert isinstance(t, Tensor)
        return student(latents, t, text, mask, guidance).to(latents.dtype)

    return trigflow(velocity)


def tangent(
    student: Network, sample: Tensor, angle: Tensor, path: Tensor, ramp: float, kind: Kind = "exact"
) -> tuple[Tensor, Tensor]:
    """Return the student's prediction, with its graph, and the tangent g before it is normalised.

    sample: (B, ...), on the circle. angle: (B,). path: D, (B, ...). ramp: r. kind: of the derivative.
    """
    prediction = student(sample, angle)
    cos, sin = cos_sin(angle, sample)
    along = ((cos * sin) * path, angle.cos() * angle.sin())
    moved = derivative_along(student, (sample, angle), along, kind)
    with torch.no_grad():
        change = -cos.square() * (prediction - path) - ramp * (cos * sin * sample + moved)
    return prediction, change


def normalised(change: Tensor, floor: float) -> Tensor:
    """Return tangents (B, ...) divided by their norms plus the floor: none is longer than 1."""
    norms = change.flatten(1).norm(dim=1).reshape(-1, *[1] * (change.ndim - 1))
    return change / (norms + floor)


def consistency_errors(prediction: Tensor, change: Tensor, angle: Tensor, expected: Tensor) -> Tensor:
    """Return the loss of each sample, B, whose gradient moves the prediction by the tangent.

    prediction: F (B, ...), with its graph. change: g, normalised. angle: (B,). expected: u (B,), learned.
    """
    square = (prediction - prediction.detach() - change).square().flatten(1).mean(1)
    weight = angle.cos().clamp(min=0) / (SIGMA_DATA * angle.sin())  # pi/2 rounds up, beyond the circle
    return weight * torch.exp(-expected) * square + expected


def first_expected(values: int) -> float:
    """Return u with which the loss has its right size at once; values: of one sample.

    The squares of a tangent of length 1 add up to 1, so their mean is 1/values. From 0 on, u would first have
    to fall to -10 for 32,768 values, and the student would learn nothing meanwhile.
    """
    return -math.log(SIGMA_DATA * values)


def around(guidance: float) -> tuple[float, float, float]:
    """Return three scales around a model's usual one, as 4, 4.5 and 5 lie around SANA's.

    >>> around(4.5)
    (4.0, 4.5, 5.0)
    """
    return (round(guidance * 8 / 9, 3), guidance, round(guidance * 10 / 9, 3))
