"""Self-forcing: student and critic learn in turns, each by its own loss."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.train.config import TrainConfig
from sanakit.train.distill.dmd import Matching, roll_out
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.loop import train
from sanakit.train.objectives.clip_velocity import ClipMixing
from sanakit.train.objectives.self_forcing import CRITIC, STUDENT, SelfForcingObjective
from sanakit.train.parts import Part, Share, split
from tests.train.objectives.test_clip_velocity import make as make_clips

WHOLE = Part(0, 6, 6)
CHUNKS = [3, 2]


def make() -> SelfForcingObjective:
    clips = make_clips(ClipMixing(), side=2)
    clips.watched = [replace(clips.watched[0], latents=clips.watched[0].latents[:, :, :5])]
    student = SanaVideo(replace(clips.transformer.config, causal=True))
    student.load_state_dict(clips.transformer.state_dict())
    return SelfForcingObjective(clips, student, chunk=2, sampler=FewTimes.at(), matching=Matching())


def test_one_step_in_six_is_the_students() -> None:
    objective = make()
    assert [objective.learning(step) for step in range(8)] == [STUDENT, *[CRITIC] * 5, STUDENT, CRITIC]
    assert objective.steady(CRITIC)
    assert not objective.steady(STUDENT)
    lasts = {objective.batch(step, WHOLE).last for step in range(12)}
    assert lasts == {0, 1, 2, 3}
    for part in split(6, Share(), 2):
        assert [objective.batch(step, part).last for step in range(4)] == [
            objective.batch(step, WHOLE).last for step in range(4)
        ]


def test_the_student_moves_along_the_difference_of_what_teacher_and_critic_see() -> None:
    """Its gradient against the equation, with a critic that has learned otherwise; 1e-4 relative."""
    objective = make()
    for parameter in objective.critic.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    batch = objective.batch(0, WHOLE)
    objective.loss(batch).backward()
    assert all(p.grad is None for p in objective.critic.parameters())
    found = objective.student.blocks[0].attn.qkv.weight.grad
    assert found is not None

    _, text, mask = objective.clips.inputs(batch.drawn)
    drawn = roll_out(
        objective.student, batch.noises, text, mask, chunks=CHUNKS, sampler=objective.sampler, last=batch.last
    )
    empty = objective.clips.encoder.encode_negative([""])[0]
    moved: list[Tensor] = []
    with torch.no_grad():
        for i in range(6):
            t, x = batch.t[i], drawn[i : i + 1]
            noisy = (1 - t) * x + t * batch.noise[i : i + 1]
            own = (text[i : i + 1], mask[i : i + 1])
            none = (empty[None], torch.ones(1, len(empty), dtype=torch.bool))
            c, u = (noisy - t * objective.teacher(noisy, t[None], *one) for one in (own, none))
            real, fake = c + 3 * (c - u), noisy - t * objective.critic(noisy, t[None], *own)
            moved.append((fake - real) / (x - real).abs().mean())
    gradient = torch.cat(moved) / moved[0].numel() / 6
    (wanted,) = torch.autograd.grad(drawn, objective.student.blocks[0].attn.qkv.weight, gradient)
    assert (found - wanted).norm() / wanted.norm() < 1e-4


def test_the_critic_learns_flow_matching_on_the_students_clips() -> None:
    objective = make()
    batch = objective.batch(1, WHOLE)
    loss = objective.loss(batch)
    loss.backward()
    assert all(p.grad is None for p in objective.student.parameters())
    assert all(p.grad is not None for p in objective.critic.parameters())
    _, text, mask = objective.clips.inputs(batch.drawn)
    with torch.no_grad():
        x = roll_out(
            objective.student,
            batch.noises,
            text,
            mask,
            chunks=CHUNKS,
            sampler=objective.sampler,
            last=batch.last,
        )
        t = batch.t.view(-1, 1, 1, 1, 1)
        v = objective.critic((1 - t) * x + t * batch.noise, batch.t, text, mask)
    assert loss.item() == pytest.approx((v - (batch.noise - x)).square().mean().item(), rel=1e-5)
    parts = [objective.loss(objective.batch(1, part)).item() for part in split(6, Share(), 3)]
    assert sum(parts) == pytest.approx(loss.item(), rel=1e-5)


def test_the_loop_trains_both_and_leaves_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import takes longer than the test
    objective = make()
    before = {name: deepcopy(part.state_dict()) for name, part in objective.model.named_children()}
    teacher = deepcopy(objective.teacher.state_dict())
    config = TrainConfig(steps=2, batch_size=2, learning_rate=1e-3, warmup_steps=0, log_every=1)
    lines = list(train(objective, config, tmp_path))
    assert lines[-1].step == 2
    assert {"apart_0.5", "apart_0.85"} <= lines[-1].metrics.keys()
    for name, part in objective.model.named_children():
        assert any(not torch.equal(before[name][key], one) for key, one in part.state_dict().items())
    assert all(torch.equal(teacher[key], one) for key, one in objective.teacher.state_dict().items())
    assert list((tmp_path / "sheets").iterdir())


def test_a_student_of_other_latents_is_refused() -> None:
    clips = make_clips(ClipMixing(), side=2)
    student = SanaVideo(replace(clips.transformer.config, latent_channels=8))
    with pytest.raises(SettingsError, match="latent_channels = 8"):
        SelfForcingObjective(clips, student, chunk=2, sampler=FewTimes.at(), matching=Matching())
