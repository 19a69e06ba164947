"""ODE initialisation: a causal student of few steps learns the ends of its teacher's trajectories.

The teacher sees whole clips and draws with guidance along its ODE, from noise to clip. Its states at the few
times that the student will be asked at are kept, and the end. The student is shown each chunk at one of them
and regresses the end:

    clean = x_sigma - sigma v(x_sigma, t)        loss = mean (clean - end)^2, over frames that are not the end

A solver's grid runs through all few times exactly, so states are not interpolated.
Source: CausVid (arXiv:2412.07772), LongSANA (arXiv:2509.24695) and its released training.
Shapes: B clips, C latent channels, T frames, h w latents, K chunks, S few times, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.dpm import FlowDPM
from sanakit.flow.guidance import classifier_free
from sanakit.flow.path import check_steps, clean_from_velocity, shift_times
from sanakit.models.contracts import VelocityModel
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import NOTHING, ClipNetwork, Given


def trajectory_times(sampler: FewTimes, steps: int, shift: float) -> tuple[Tensor, list[int]]:
    """Return a solver's grid through all times of a sampler, and the places of these in it.

    steps: about as many in all, at least one from each few time to the next. shift: > 0; between two few
    times the grid is even before this shift, as the teacher's own one. Returns float64 (N + 1,), from the
    sampler's first time to 0, and S + 1 rising numbers from 0 to N. Raises SettingsError.
    """
    check_steps(steps)
    stops = sampler.times.double()
    even = shift_times(stops, 1 / shift)  # undoes the shift
    pieces, places = [stops[:1]], [0]
    for number, (high, low) in enumerate(pairwise(even), 1):
        count = max(1, round(steps * ((high - low) / even[0]).item()))
        inner = torch.linspace(high.item(), low.item(), count + 1, dtype=torch.float64)[1:-1]
        pieces += [shift_times(inner, shift), stops[number : number + 1]]
        places.append(places[-1] + count)
    return torch.cat(pieces), places


@torch.no_grad()
def teacher_trajectory(
    teacher: VelocityModel,
    noise: Tensor,
    text: Tensor,
    negative: Tensor,
    *,
    times: Tensor,
    places: Sequence[int],
    guidance: float,
) -> Tensor:
    """Draw one clip by the teacher; return its states at places of the grid, S+1 C T h w, the last one clean.

    noise: C T h w. text, negative: L E, features of the prompt and of what it is guided away from; guidance
    up to 1 does not use the second. times, places: as from `trajectory_times`.
    """
    guided = guidance > 1
    context = teacher.prepare([negative, text] if guided else [text])

    def asked(x: Tensor, t: float | Tensor) -> Tensor:
        return teacher.velocity(x, t, context)

    velocity = classifier_free(asked, guidance) if guided else asked
    solver, kept = FlowDPM(times), set(places)
    state = solver.start(noise[None])
    states = [state.sample]
    while not state.done:
        state = solver.advance(state, velocity(state.sample, state.t))
        if state.index in kept:
            states.append(state.sample)
    return torch.cat(states)


def trajectory_errors(
    student: ClipNetwork,
    states: Tensor,
    steps: Tensor,
    text: Tensor,
    mask: Tensor,
    *,
    chunks: Sequence[int],
    sampler: FewTimes,
    given: Given = NOTHING,
) -> Tensor:
    """Return how far the student's ends are from those of the teacher, a mean square for each clip, B.

    states: B S+1 C T h w, as from `teacher_trajectory`, of known frames too. steps: B K, at which of them
    each chunk is shown; S: the end, whose frames count nothing, as known ones do. A clip of such alone counts
    0. chunks: frames of each, T in all.
    """
    if states.shape[1] != len(sampler.times):
        raise SettingsError(
            f"The trajectories have {states.shape[1]} states, the sampler {len(sampler.times)} times: use "
            "its own trajectories."
        )
    each = steps.repeat_interleave(torch.tensor(chunks, device=steps.device), dim=1)  # B T
    places = each[:, None, None, :, None, None].expand(-1, 1, *states.shape[2:])
    noisy, end = states.gather(1, places).squeeze(1), states[:, -1]
    t = torch.tensor(sampler.model_times, dtype=noisy.dtype, device=noisy.device)[each]
    sigma = sampler.times.to(noisy)[each]
    found = given.velocity(student, noisy, t, text, mask, chunks).to(noisy.dtype)
    clean = clean_from_velocity(noisy, found, sigma[:, None, :, None, None])
    errors = given.drawn((clean - end).square()).mean((1, 3, 4))  # B T, or behind the known one
    learned = (t[:, given.held :] > 0).to(errors)
    return (errors * learned).sum(1) / learned.sum(1).clamp(min=1)
