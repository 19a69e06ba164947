"""Distribution matching for clips in chunks: self-forcing, and the gradient of two scores.

A causal student of few steps draws whole clips as it will in use: chunk after chunk, each seeing its own past
(self-forcing). Noised again, its clips are shown to two models that see whole clips: the teacher ("real"),
and a critic ("fake") that learns on the student's clips. Where the two see other clean clips, the student
follows the teacher:

    gradient = (fake - real) / mean |drawn - real|            loss = 1/2 mean (drawn - sg(drawn - gradient))^2

The teacher is guided away from the negative prompt, the critic is not. The published training begins with a
student that was fitted to ends of the teacher's trajectories (`trajectories.py`). Of worlds all three models
are shown the first frame and the cameras (`given.py`), and the means are over the other frames.
Source: DMD2 (arXiv:2405.14867), CausVid (arXiv:2412.07772), Self Forcing (arXiv:2506.08009), LongSANA
(arXiv:2509.24695) and its released training, whose figures are the defaults here; SANA-WM's configurations.
Shapes: B clips, C latent channels, T frames, h w latents, K chunks, S steps, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.path import (
    MODEL_TIME_SCALE,
    clean_from_velocity,
    interpolate,
    shift_times,
    velocity_target,
)
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import NOTHING, ClipNetwork, Given


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """Settings of the two scores; the defaults are the published ones. Raises SettingsError.

    guidance: of the teacher; published as 3 added to the prompt's own; 1: none. shift: of the times that
    clips are noised to. least, most: of those times, in [0, 1]. critic_steps: for each of the student's.
    """

    guidance: float = 4.0
    shift: float = 5.0
    critic_steps: int = 5
    least: float = 0.02
    most: float = 0.98

    def __post_init__(self) -> None:
        if not 0 < self.least < self.most < 1:
            raise SettingsError(
                f"least = {self.least} and most = {self.most}, but they must rise within (0, 1)."
            )
        if self.critic_steps < 1:
            raise SettingsError(f"critic_steps = {self.critic_steps}, but the critic needs 1 or more.")


def matching_times(n: int, matching: Matching, generator: torch.Generator) -> Tensor:
    """Draw a time for each of n clips, float32: even over the 1,000 published steps, shifted and limited."""
    steps = torch.randint(MODEL_TIME_SCALE, (n,), generator=generator)
    return shift_times(steps / MODEL_TIME_SCALE, matching.shift).clamp(matching.least, matching.most)


def clean_seen(
    model: ClipNetwork,
    noisy: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    *,
    given: Given = NOTHING,
    chunks: Sequence[int] | None = None,
) -> Tensor:
    """Return the clean clips, B C T h w, that a model sees in noisy ones. t: B.

    chunks: frames of each, for a model that sees chunks; None: it sees whole clips.
    """
    velocity = given.velocity(model, noisy, t, text, mask, chunks).to(noisy.dtype)
    return given.beginning(clean_from_velocity(noisy, velocity, t))


def score_difference(drawn: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """Return what the student is moved by, B C T h w; 0 where a clip is what the teacher sees.

    drawn: the student's clips, without known frames. real, fake: what teacher and critic see in them.
    """
    size = (drawn - real).abs().flatten(1).mean(1).view(-1, 1, 1, 1, 1)
    return torch.nan_to_num((fake - real) / size, nan=0.0, posinf=0.0, neginf=0.0)


def matching_errors(drawn: Tensor, difference: Tensor) -> Tensor:
    """Return the loss of each clip, B, whose gradient in its values is the difference over their number."""
    wanted = (drawn - difference).detach()
    return 0.5 * (drawn - wanted).square().flatten(1).mean(1)


def critic_errors(
    critic: ClipNetwork,
    drawn: Tensor,
    noise: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    *,
    given: Given = NOTHING,
    chunks: Sequence[int] | None = None,
) -> Tensor:
    """Return flow matching's mean square of each of the student's clips, B, over frames that are not known.

    drawn, noise: B C T h w. t: B. Others: as for `clean_seen`.
    """
    velocity = given.velocity(critic, interpolate(drawn, noise, t), t, text, mask, chunks).float()
    return given.drawn(velocity - velocity_target(drawn, noise)).square().flatten(1).mean(1)


def roll_out(
    student: ClipNetwork,
    noises: Sequence[Tensor],
    text: Tensor,
    mask: Tensor,
    *,
    chunks: Sequence[int],
    sampler: FewTimes,
    last: int,
    given: Given = NOTHING,
) -> Tensor:
    """Draw whole clips chunk after chunk, B C T h w; gradients flow through one step of each chunk alone.

    noises: B C T h w each: the first noise, and the fresh one behind each step where the sampler takes it.
    last: number of the step, from 0, whose clean clips are the result; gradients flow through it, where they
    are on. A chunk sees the ones before as they were drawn, without gradients.
    """
    learning, drawn, first = torch.is_grad_enabled(), list[Tensor](), 0
    for number, length in enumerate(chunks):
        own = slice(first, first + length)
        past = torch.cat([one.detach() for one in drawn], dim=2) if drawn else noises[0][:, :, :0]
        sample = noises[0][:, :, own]
        for step in range(last + 1):
            t = noises[0].new_zeros(len(sample), first + length)
            t[:, first:] = sampler.model_times[step]
            with torch.set_grad_enabled(learning and step == last):
                begun = torch.cat([past, sample], dim=2)
                found = given.velocity(student, begun, t, text, mask, chunks[: number + 1])
                velocity = found[:, :, first:].to(sample.dtype)
                clean = clean_from_velocity(sample, velocity, sampler.times[step].item())
                if step < last:
                    fresh = noises[step + 1][:, :, own] if sampler.fresh else None
                    sample = sampler.onward(step, clean, velocity, fresh)
        drawn.append(clean if first else given.beginning(clean))
        first += length
    return torch.cat(drawn, dim=2)
