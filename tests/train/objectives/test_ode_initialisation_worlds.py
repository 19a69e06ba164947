"""ODE initialisation of worlds: the loss is the equation, with a known first frame and cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.models.world.camera import CameraInputs
from sanakit.models.world.sana_wm import SanaWM
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import Given
from sanakit.train.feeds.trajectories import AboutTrajectories, Trajectories, build_trajectories
from sanakit.train.objectives.ode_initialisation import OdeObjective
from sanakit.train.objectives.student_clips import StudentClips
from sanakit.train.objectives.world_velocity import given_of
from sanakit.train.parts import Part, Share
from tests.train.objectives.test_velocity import CAPTIONS
from tests.train.objectives.test_world_velocity import LATENTS, PIXELS, SIDE, STRIDE, cameras, speaking
from tests.train.objectives.test_world_velocity import make as make_world

SHAPE, TIMES = (4, LATENTS, SIDE, SIDE), (1.0, 0.9, 0.6, 0.0)
SAMPLER = FewTimes.at(TIMES[:-1], None)
COUNT = 6


def states(number: int) -> Tensor:
    """Any states; the first frame is the same in all."""
    generator = torch.Generator().manual_seed(number)
    made = torch.randn(len(TIMES), *SHAPE, generator=generator)
    made[:, :, :1] = made[-1:, :, :1].clone()
    return made.half()


def given(numbers: Sequence[int]) -> Given:
    clips = torch.stack([states(number)[-1] for number in numbers]).float()
    return given_of(clips, cameras()[list(numbers)], (STRIDE, PIXELS))


def make(folder: Path) -> OdeObjective:
    about = AboutTrajectories(
        teacher={},
        times=SAMPLER.model_times[:-1],
        levels=tuple(SAMPLER.times.tolist()),
        shift=3.0,
        steps=4,
        guidance=1.0,
        negative="",
        shape=SHAPE,
        seed=0,
        prompts=tuple(CAPTIONS[number % 3] for number in range(COUNT)),
        given="of clips",
    )
    build_trajectories(folder, about, states, Share())
    world = make_world()
    how = {"chunk": 2, "sampler": SAMPLER, "watched": world.watched, "compression": (STRIDE, PIXELS)}
    drawing = StudentClips(world.encoder, world.drawing, **how)
    return OdeObjective(speaking(), Trajectories(folder), drawing, held_out=1, given=given)


def test_the_loss_and_its_gradient_are_those_of_the_equation_in_float64(tmp_path: Path) -> None:
    """1e-6 relative; the first frame is shown clean and counts nothing, at whatever time its chunk is."""
    objective = make(tmp_path)
    student = objective.student.double()
    assert isinstance(student, SanaWM)
    batch = objective.batch(1, Part(0, 4, 4))
    known = batch.given
    assert known.first is not None
    assert known.inputs is not None
    wide = Given(known.first.double(), CameraInputs(*(part.double() for part in known.inputs)))
    loss = objective.loss(replace(batch, states=batch.states.double(), given=wide))
    loss.backward()
    trained = [p for p in student.parameters() if p.requires_grad]
    found = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])

    errors, numbers = list[Tensor](), objective._numbers(1, Part(0, 4, 4))
    assert wide.inputs is not None
    for row, (number, steps) in enumerate(zip(numbers, batch.steps.tolist(), strict=True)):
        each, own = [steps[0]] * 3 + [steps[1]] * 2, states(number).double()
        noisy = torch.stack([own[step, :, frame] for frame, step in enumerate(each)], dim=1)
        noisy[:, 0] = own[-1, :, 0]
        t = torch.tensor([0.0, *(TIMES[step] for step in each[1:])], dtype=torch.float64)
        text = objective.encoder.encode([CAPTIONS[number % 3]], notes=[])[0][None].double()
        seen = {"cameras": wide.inputs[0][row : row + 1], "plucker": wide.inputs[1][row : row + 1]}
        v = student(noisy[None], t[None], text, chunks=[3, 2], **seen)[0]
        learned = [frame for frame in range(1, 5) if TIMES[each[frame]] > 0]
        apart = [(noisy[:, k] - t[k] * v[:, k] - own[-1, :, k]).square().mean() for k in learned]
        errors.append(torch.stack(apart).mean() if apart else torch.zeros((), dtype=torch.float64))
    wanted = torch.stack(errors).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    derived = torch.cat([one.flatten() for one in torch.autograd.grad(wanted, trained)])
    assert (found - derived).norm() / derived.norm() < 1e-6


def test_held_out_trajectories_and_obedience_are_measured(tmp_path: Path) -> None:
    objective = make(tmp_path)
    measured = objective.evaluate(objective.model)
    ends = {f"end_{time:g}" for time in TIMES[:-1]}
    assert measured.keys() == ends | {f"unseen_{name}" for name in ("path_own", "path_other", "obeyed")}
    assert objective.sheet(objective.model).size[0] > 0
