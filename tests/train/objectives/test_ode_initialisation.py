"""ODE initialisation: its loss is the equation, and its student comes nearer to the teacher's ends."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.train.config import TrainConfig
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.trajectories import teacher_trajectory, trajectory_times
from sanakit.train.feeds.trajectories import AboutTrajectories, Trajectories, build_trajectories
from sanakit.train.loop import train
from sanakit.train.objectives.clip_velocity import ClipMixing, ClipObjective
from sanakit.train.objectives.ode_initialisation import OdeObjective
from sanakit.train.objectives.student_clips import StudentClips
from sanakit.train.parts import Part, Share, split
from sanakit.train.state.checkpoint import load_average
from tests.train.objectives.test_clip_velocity import make as make_clips
from tests.train.objectives.test_velocity import CAPTIONS

SAMPLER = FewTimes.at()
SHAPE, CHUNKS = (4, 5, 2, 2), [3, 2]
COUNT, HELD_OUT = 12, 4
WHOLE = Part(0, 4, 4)
GUIDANCE = 2.0


@pytest.fixture(scope="module")
def clips() -> ClipObjective:
    return make_clips(ClipMixing(), side=2)


@pytest.fixture(scope="module")
def folder(clips: ClipObjective, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen trajectories of a tiny teacher."""
    times, places = trajectory_times(SAMPLER, 12, 8.0)
    about = AboutTrajectories(
        teacher={},
        times=SAMPLER.model_times[:-1],
        levels=tuple(SAMPLER.times.tolist()),
        shift=8.0,
        steps=12,
        guidance=GUIDANCE,
        negative="",
        shape=SHAPE,
        seed=3,
        prompts=tuple(CAPTIONS[number % 3] for number in range(COUNT)),
    )
    negative = clips.encoder.encode_negative([""])[0]

    def draw(number: int) -> Tensor:
        text = clips.encoder.encode([about.prompts[number]], notes=[])[0]
        settings = {"times": times, "places": places, "guidance": GUIDANCE}
        return teacher_trajectory(clips.transformer, about.noise(number), text, negative, **settings)

    path = tmp_path_factory.mktemp("trajectories")
    build_trajectories(path, about, draw, Share())
    return path


def make(clips: ClipObjective, folder: Path) -> OdeObjective:
    student = SanaVideo(replace(clips.transformer.config, causal=True))
    student.load_state_dict(clips.transformer.state_dict())
    return OdeObjective(student, Trajectories(folder), drawing(clips), held_out=HELD_OUT, seed=5)


def drawing(clips: ClipObjective, sampler: FewTimes = SAMPLER) -> StudentClips:
    return StudentClips(clips.encoder, clips.drawing, chunk=2, sampler=sampler)


def test_the_loss_is_that_of_the_equation_in_float64(clips: ClipObjective, folder: Path) -> None:
    """1e-6 relative, of a whole batch and of its parts together."""
    objective = make(clips, folder)
    objective.student.double()
    batches = [objective.batch(2, part) for part in (WHOLE, *split(4, Share(), 1))]
    own = [replace(batch, states=batch.states.double()) for batch in batches]
    losses = [objective.loss(batch).item() for batch in own]
    assert losses[0] == pytest.approx(sum(losses[1:]), rel=1e-6)

    numbers, errors = objective._numbers(2, WHOLE), list[Tensor]()
    assert len({tuple(row) for row in own[0].steps.tolist()}) > 1  # chunks at times of their own
    for row, steps in zip(numbers, own[0].steps.tolist(), strict=True):
        states = objective.trajectories.states([row])[0].double()
        each = [steps[0]] * 3 + [steps[1]] * 2
        noisy = torch.stack([states[step, :, frame] for frame, step in enumerate(each)], dim=1)
        t = torch.tensor([[[1.0, 0.96, 0.889, 0.727, 0.0][step] for step in each]], dtype=torch.float64)
        text = clips.encoder.encode([objective.trajectories.about.prompts[row]], notes=[])[0]
        v = objective.student(noisy[None], t, text[None].double(), chunks=CHUNKS)[0]
        frames = [
            (noisy[:, frame] - SAMPLER.times[step] * v[:, frame] - states[-1, :, frame]).square().mean()
            for frame, step in enumerate(each)
            if step < 4
        ]
        errors.append(sum(frames, torch.zeros(())) / max(1, len(frames)))
    assert losses[0] == pytest.approx(torch.stack(errors).mean().item(), rel=1e-6)


def test_every_trajectory_but_those_held_out_comes_once_a_round(clips: ClipObjective, folder: Path) -> None:
    objective = make(clips, folder)
    rounds = [
        [n for step in steps for n in objective._numbers(step, WHOLE)] for steps in (range(2), range(2, 4))
    ]
    assert [sorted(one) for one in rounds] == [list(range(COUNT - HELD_OUT))] * 2
    assert rounds[0] != rounds[1]


@torch.no_grad()
def apart(clips: ClipObjective, student: torch.nn.Module, folder: Path) -> float:
    """Return how far a student's ends are from those of the teacher's ODE, on trajectories held out.

    The ODE is solved here, in small Euler steps, and the student shown its points at LongSANA's noise levels.
    """
    total, about = 0.0, Trajectories(folder).about
    teacher, empty = clips.transformer, clips.encoder.encode_negative([""])[0]
    for number in range(COUNT - HELD_OUT, COUNT):
        x = about.noise(number)[None]
        text = clips.encoder.encode([about.prompts[number]], notes=[])[0][None]
        points: list[Tensor] = []
        grid = [*torch.linspace(1, 0.2, 17).tolist(), 0.1, 0.05, 0.0]  # before the shift
        times = sorted({*(8 * u / (1 + 7 * u) for u in grid), *SAMPLER.times.tolist()}, reverse=True)
        for high, low in zip(times, [*times[1:], 0.0], strict=True):
            if high in SAMPLER.times.tolist():
                points.append(x)
            t = torch.tensor([high])
            c, u = teacher(x, t, text), teacher(x, t, empty[None])
            x = x + (low - high) * (u + GUIDANCE * (c - u))
        for point, time, level in zip(points[:4], (1.0, 0.96, 0.889, 0.727), SAMPLER.times, strict=False):
            v = student(point, torch.full((1, 5), time), text, chunks=CHUNKS)
            total += (point - level * v - points[-1]).square().mean().item()
    return total


def test_the_student_comes_nearer_to_its_teachers_ends(
    clips: ClipObjective, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning, and going on from a checkpoint, to the bit; its own measure agrees."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import takes longer than the test
    objective = make(clips, folder)
    config = TrainConfig(steps=30, batch_size=4, learning_rate=3e-3, warmup_steps=0, log_every=1)
    config = replace(config, checkpoint_every=20, evaluate_every=30, decay_fraction=0.5, ema_decay=0.8)
    before, told = apart(clips, objective.student, folder), objective.evaluate(objective.model)
    lines = list(train(objective, config, tmp_path / "whole"))
    trained = make(clips, folder).student
    state = load_average(tmp_path / "whole")
    assert state is not None
    trained.load_state_dict({name.removeprefix("transformer."): one for name, one in state.items()})
    assert apart(clips, trained, folder) < 0.8 * before
    after = {name: lines[-1].metrics[name] for name in told}
    assert all(after[name] < told[name] for name in told), (after, told)

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-0000030")
    rest = list(train(make(clips, folder), config, tmp_path / "resumed", resume=True))
    assert [(one.step, one.loss) for one in rest] == [(one.step, one.loss) for one in lines[20:]]
    again = load_average(tmp_path / "resumed")
    assert again is not None
    assert all(torch.equal(again[name], one) for name, one in state.items())


def test_other_trajectories_are_refused(clips: ClipObjective, folder: Path) -> None:
    made = make(clips, folder)
    for sampler, held_out, told in (
        (FewTimes.at((1.0, 0.5)), 1, "at times"),
        (FewTimes.at(shift=5.0), 1, "at times"),
        (SAMPLER, COUNT, "12 of 12 trajectories are held out"),
    ):
        with pytest.raises(SettingsError, match=told):
            OdeObjective(made.student, made.trajectories, drawing(clips, sampler), held_out=held_out)
    other = SanaVideo(replace(made.student.config, latent_channels=8))
    with pytest.raises(SettingsError, match="4 latent channels, the student 8"):
        OdeObjective(other, made.trajectories, drawing(clips), held_out=1)
