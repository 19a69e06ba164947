"""Self-forcing of worlds: losses and gradients from the equations, with a known first frame and cameras."""

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
from sanakit.models.world.camera import CameraInputs
from sanakit.models.world.config import Variant
from sanakit.models.world.sana_wm import SanaWM
from sanakit.train.config import TrainConfig
from sanakit.train.distill.dmd import Matching
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.loop import train
from sanakit.train.objectives.clip_velocity import ClipMixing
from sanakit.train.objectives.self_forcing import CRITIC, STUDENT, SelfForcingBatch, SelfForcingObjective
from sanakit.train.objectives.world_velocity import WorldBatch
from sanakit.train.parts import Part
from sanakit.train.state.checkpoint import load_average
from tests.train.objectives.test_clip_velocity import make as make_clips
from tests.train.objectives.test_world_velocity import CONFIG, speaking
from tests.train.objectives.test_world_velocity import make as make_world

WHOLE = Part(0, 2, 2)
TIMES = (1.0, 0.9, 0.6)
CHUNKS = [3, 2]
GUIDANCE = 2.5


def make(variant: Variant = "bidirectional", critic_steps: int = 4) -> SelfForcingObjective:
    """A student that has learned otherwise than its teacher."""
    torch.manual_seed(0)  # of the text encoder
    clips = make_world(config=replace(CONFIG, variant=variant))
    student = speaking()
    for parameter in student.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    return SelfForcingObjective(
        clips,
        student,
        chunk=2,
        sampler=FewTimes.at(TIMES, None),
        matching=Matching(guidance=GUIDANCE, critic_steps=critic_steps),
        negative="two keys",
    )


def widened(objective: SelfForcingObjective, step: int) -> SelfForcingBatch:
    """Make all models float64; return a batch of that kind."""
    for model in (objective.student, objective.critic, objective.teacher):
        model.double()
    batch = objective.batch(step, WHOLE)
    drawn = batch.drawn
    assert isinstance(drawn, WorldBatch)
    assert isinstance(drawn.latents, Tensor)
    inputs = CameraInputs(*(part.double() for part in drawn.inputs))
    return replace(
        batch,
        drawn=replace(drawn, latents=drawn.latents.double(), inputs=inputs),
        noises=[one.double() for one in batch.noises],
        t=batch.t.double(),
        noise=batch.noise.double(),
    )


def asked(
    model: SanaWM, x: Tensor, t: list[Tensor], i: int, batch: SelfForcingBatch, text: Tensor, chunks
) -> Tensor:
    """Ask a model for the velocity of clip i, 1 C T h w; t: of each frame."""
    assert isinstance(batch.drawn, WorldBatch)
    cameras, plucker = batch.drawn.inputs
    frames = x.shape[2]
    seen = {"cameras": cameras[i : i + 1, :frames], "plucker": plucker[i : i + 1, :, :frames]}
    return model(x, torch.stack(t)[None], text, chunks=chunks, **seen)


def rolled(objective: SelfForcingObjective, batch: SelfForcingBatch, text: list[Tensor]) -> Tensor:
    """Draw each clip alone: Euler's steps, x + (next - now) v; the first frame is the clip's own."""
    assert isinstance(batch.drawn.latents, Tensor)
    clips, zero = list[Tensor](), torch.zeros((), dtype=torch.float64)
    assert isinstance(objective.student, SanaWM)
    for i in range(len(batch.t)):
        first = batch.drawn.latents[i : i + 1, :, :1]
        done = first[:, :, :0]
        for start, stop in ((0, 3), (3, 5)):
            x, clean = batch.noises[0][i : i + 1, :, start:stop], first
            for step in range(batch.last + 1):
                if start == 0:
                    x = torch.cat([first, x[:, :, 1:]], dim=2)
                t = [zero] * start + [zero + TIMES[step]] * (stop - start)
                t[0] = zero
                with torch.set_grad_enabled(step == batch.last and torch.is_grad_enabled()):
                    whole = torch.cat([done.detach(), x], dim=2)
                    chunks = CHUNKS[: 1 if start == 0 else 2]
                    v = asked(objective.student, whole, t, i, batch, text[i], chunks)[:, :, start:]
                    clean = x - TIMES[step] * v
                    if step < batch.last:
                        x = x + (TIMES[step + 1] - TIMES[step]) * v
            if start == 0:
                clean = torch.cat([first, clean[:, :, 1:]], dim=2)
            done = torch.cat([done, clean], dim=2)
        clips.append(done)
    return torch.cat(clips)


def texts(objective: SelfForcingObjective, batch: SelfForcingBatch) -> list[Tensor]:
    text, mask = objective.clips.words(batch.drawn)
    return [one[real][None].double() for one, real in zip(text, mask, strict=True)]


def gradient_of(model: SanaWM, loss: Tensor) -> Tensor:
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=False)
    return torch.cat([one.flatten() for one in found])


@pytest.mark.parametrize(("variant", "last"), [("bidirectional", 2), ("streaming", 1)])
def test_the_students_loss_and_gradient_are_those_of_the_equations_in_float64(
    variant: Variant, last: int
) -> None:
    """1e-6 relative: teacher and critic see the true first frame and the cameras, and it counts nothing."""
    objective = make(variant)
    for parameter in objective.critic.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    batch = replace(widened(objective, 0), last=last)
    assert batch.learning == STUDENT
    assert isinstance(objective.student, SanaWM)
    loss = objective.loss(batch)
    found = gradient_of(objective.student, loss)

    text = texts(objective, batch)
    (negative,) = objective.clips.encoder.encode_negative(["two keys"])
    drawn = rolled(objective, batch, text)
    zero, chunks = torch.zeros((), dtype=torch.float64), None if variant == "bidirectional" else CHUNKS
    wanted, value = list[Tensor](), 0.0
    for i in range(2):
        x, t, noise = drawn[i : i + 1].detach(), batch.t[i], batch.noise[i : i + 1]
        noisy = torch.cat([x[:, :, :1], (1 - t) * x[:, :, 1:] + t * noise[:, :, 1:]], dim=2)
        seen = []
        for model, own in (
            (objective.teacher, text[i]),
            (objective.teacher, negative[None].double()),
            (objective.critic, text[i]),
        ):
            assert isinstance(model, SanaWM)
            with torch.no_grad():
                v = asked(model, noisy, [zero, *[t] * 4], i, batch, own, chunks)
            seen.append((noisy - t * v)[:, :, 1:])
        c, u, fake = seen
        real = u + GUIDANCE * (c - u)
        moved = (fake - real) / (x[:, :, 1:] - real).abs().mean()
        wanted.append(moved / moved.numel() / 2)
        value += 0.5 * moved.square().mean().item() / 2
    assert loss.item() == pytest.approx(value, rel=1e-6)
    derived = gradient_of(objective.student, (drawn[:, :, 1:] * torch.cat(wanted)).sum())
    assert (found - derived).norm() / derived.norm() < 1e-6


@pytest.mark.parametrize(
    ("variant", "chunks"), [("bidirectional", None), ("streaming", [2, 2, 2]), ("chunk_causal", [3, 3])]
)
def test_teacher_and_critic_see_the_chunks_that_they_were_trained_in(
    variant: Variant, chunks: list[int] | None
) -> None:
    assert make(variant)._seen(6) == chunks


def test_the_critics_loss_and_gradient_are_those_of_flow_matching_behind_the_first_frame() -> None:
    """1e-6 relative, in float64 but for the errors, which are rounded to float32."""
    objective = make()
    batch = replace(widened(objective, 1), last=1)
    assert batch.learning == CRITIC
    assert isinstance(objective.critic, SanaWM)
    loss = objective.loss(batch)
    found, text, zero = gradient_of(objective.critic, loss), texts(objective, batch), torch.zeros(())
    with torch.no_grad():
        drawn = rolled(objective, batch, text)
    errors = []
    for i in range(2):
        x, t, noise = drawn[i : i + 1], batch.t[i], batch.noise[i : i + 1]
        noisy = torch.cat([x[:, :, :1], (1 - t) * x[:, :, 1:] + t * noise[:, :, 1:]], dim=2)
        v = asked(objective.critic, noisy, [zero.double(), *[t] * 4], i, batch, text[i], None)
        errors.append((v - (noise - x))[:, :, 1:].square().mean())
    wanted = torch.stack(errors).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    derived = gradient_of(objective.critic, wanted)
    assert (found - derived).norm() / derived.norm() < 1e-6


def test_one_step_in_five_is_the_students_and_it_takes_no_fresh_noise() -> None:
    objective = make()
    assert [objective.learning(step) for step in range(6)] == [STUDENT, *[CRITIC] * 4, STUDENT]
    batches = [objective.batch(step, WHOLE) for step in range(8)]
    assert {batch.last for batch in batches} == {0, 1, 2}
    assert {len(batch.noises) for batch in batches} == {1}


def test_what_nothing_reaches_is_trained_in_neither() -> None:
    objective = make()
    idle = {name for name, p in objective.model.named_parameters() if not p.requires_grad}
    assert {name.split(".", 1)[1] for name in idle} >= {
        "raymap_embedder.proj.weight",
        "blocks.0.attn.recall_gate",
    }
    assert len([name for name in idle if name.startswith(STUDENT)]) == len(idle) / 2
    objective.loss(objective.batch(0, WHOLE)).backward()
    reached = {name for name, p in objective.student.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in objective.student.named_parameters() if p.requires_grad}


@pytest.mark.thorough
def test_training_goes_on_to_the_bit_and_tells_whether_the_student_obeys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import takes longer than the test
    config = TrainConfig(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=0, log_every=1)
    config = replace(config, checkpoint_every=2, evaluate_every=4, sheet_every=4)
    lines = list(train(make(critic_steps=1), config, tmp_path / "whole"))
    told = {f"unseen_{name}" for name in ("apart_0.5", "path_own", "path_other", "obeyed")}
    assert told <= lines[-1].metrics.keys()
    assert list((tmp_path / "whole" / "sheets").iterdir())
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-0000004")
    rest = list(train(make(critic_steps=1), config, tmp_path / "resumed", resume=True))
    assert [one.step for one in rest] == [3, 4]
    assert rest[0].loss == lines[2].loss  # of the student
    assert rest[1].metrics == lines[3].metrics
    one, other = (load_average(tmp_path / name) for name in ("whole", "resumed"))
    assert one is not None
    assert other is not None
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_a_student_of_another_kind_or_of_whole_clips_is_refused() -> None:
    clips = make_world()
    how = {"chunk": 2, "sampler": FewTimes.at(TIMES, None), "matching": Matching()}
    with pytest.raises(SettingsError, match="sees whole clips"):
        SelfForcingObjective(clips, speaking(replace(CONFIG, variant="bidirectional")), **how)
    plain = make_clips(ClipMixing(), side=2)
    with pytest.raises(SettingsError, match="draws clips, its teacher worlds"):
        SelfForcingObjective(clips, SanaVideo(replace(plain.transformer.config, causal=True)), **how)
    with pytest.raises(SettingsError, match="draws worlds, its teacher clips"):
        SelfForcingObjective(plain, speaking(), **how)
    with pytest.raises(SettingsError, match="critic_steps = 0"):
        Matching(critic_steps=0)
