"""Distillation of a flow model into one that draws in one to four steps: SANA-Sprint's sCM and LADD together.

The student begins as the teacher, with an embedding of the guidance scale besides. Steps alternate, each with
a batch of its own: the student learns from both losses (`distill/scm.py`, `distill/ladd.py`), then the heads
learn to tell its drawings from real latents. Without LADD all steps are the student's.

The loss of sCM does not tell how good a student is: its square has a constant length. `evaluate` measures
instead, at fixed noise and with the middle guidance scale:
- `tangent_S`: root mean square of the tangent at angle S, not normalised, with r = 1; 0 for a student that is
  consistent. It depends on the teacher's curvature as well, so compare it with its own beginning.
- `away_1`: root mean square distance of one-step drawings from where the teacher's own path ends, and
  `undistilled_1`, the same of the teacher drawing in one step.
- `hinge`: the heads' loss, 1 when they know nothing.
Source: SANA-Sprint (arXiv:2503.09641). Shapes: B batch, C h w latents, L text tokens, E text width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.flow.path import interpolate, trig_to_flow_time
from sanakit.flow.scm import SCM, scm_times
from sanakit.flow.trigflow import clean_from_prediction, on_circle
from sanakit.images.sheets import contact_sheet
from sanakit.models.sana import Sana
from sanakit.seeds import further_seed, step_generator
from sanakit.text.encoder import TextEncoder
from sanakit.train.distill.ladd import Adversarial, Heads, features, heads_loss, student_loss
from sanakit.train.distill.scm import (
    Consistency,
    angles,
    consistency_errors,
    first_expected,
    guided_teacher,
    normalised,
    student_prediction,
    tangent,
)
from sanakit.train.objectives.flow_matching import draw_latents, seeded_noise
from sanakit.train.objectives.velocity import TRANSFORMER, VelocityBatch, VelocityObjective, Watched
from sanakit.train.parts import Part, sample_noise

STUDENT, HEADS = "student", "heads"  # the parts that learn in turns
EXPECTED = "expected"  # beside the student's transformer: u of its loss
STUDENT_TRANSFORMER = f"{STUDENT}.{TRANSFORMER}"  # its name in a run's checkpoint
ANGLES_WATCHED = (0.5, 1.0, 1.5)
STEPS_DRAWN = (1, 2, 4)
MEASURED = 32  # samples of each set that is watched, at most
COLUMNS = 8  # of the sheet


@dataclass(frozen=True, slots=True)
class Fakes:
    """Angles, times and noise of a student's drawings for the heads."""

    angle: Tensor  # B, where the student is asked; pi/2: pure noise
    noise: Tensor  # B C h w, of its sample
    judged: Tensor  # B, the time at which latents are judged, in [0, 1]
    on_fake: Tensor  # B C h w, noise of the judged latents
    on_real: Tensor  # B C h w


@dataclass(frozen=True, slots=True)
class SprintBatch:
    """A part of a global batch, drawn: what the loss is computed from."""

    drawn: VelocityBatch  # latents, noise, captions and shares
    learning: str  # STUDENT or HEADS
    guidance: Tensor  # B
    angle: Tensor  # B, of sCM
    ramp: float  # r of sCM
    fakes: Fakes | None  # None: without LADD


class SprintObjective:
    """A student of the transformer of a velocity objective, on its samples; see the module's text.

    velocity: with the teacher, which is frozen, and a frozen text encoder; its caption dropout should be 0.
    student: from `with_guidance`, on the teacher's device. adversarial: None: sCM alone.
    Raises SettingsError for heads behind blocks that the teacher does not have, and where neither is learned
    from.
    """

    def __init__(
        self,
        velocity: VelocityObjective,
        student: Sana,
        consistency: Consistency,
        adversarial: Adversarial | None,
    ) -> None:
        if adversarial is None and not consistency.weight:
            raise SettingsError("A student needs sCM or LADD: set a weight of sCM above 0, or add heads.")
        self.velocity, self.consistency, self.adversarial = velocity, consistency, adversarial
        self.teacher = velocity.transformer.eval().requires_grad_(False)
        self.student = student.train().requires_grad_(True)
        width, depth = self.teacher.config.width, self.teacher.config.depth
        expected = nn.Linear(width, 1)
        nn.init.xavier_uniform_(expected.weight)
        nn.init.constant_(expected.bias, first_expected(math.prod(velocity.drawing.shape)))
        own = nn.ModuleDict({TRANSFORMER: self.student, EXPECTED: expected.to(velocity.device)})
        parts: dict[str, nn.Module] = {STUDENT: own}
        if adversarial is not None:
            if max(adversarial.blocks) >= depth:
                raise SettingsError(
                    f"Heads are asked for behind block {max(adversarial.blocks)}, but the teacher has "
                    f"{depth} blocks, the last of which is {depth - 1}: choose others."
                )
            parts[HEADS] = Heads(width, adversarial).to(velocity.device)
        self.model: nn.Module = nn.ModuleDict(parts)
        self._ends: dict[str, tuple[Tensor, float]] = {}

    @property
    def middle(self) -> float:
        """The guidance scale that is measured and drawn with."""
        scales = sorted(self.consistency.guidance)
        return scales[len(scales) // 2]

    def learning(self, step: int) -> str:
        """Return the part that learns in a step: the student in even ones, the heads in odd ones."""
        return STUDENT if self.adversarial is None or step % 2 == 0 else HEADS

    def steady(self, part: str) -> bool:
        """Return whether a part's learning rate stays the same: the heads', as published."""
        return part == HEADS

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the feed get ready. Raises SettingsError for parts that misaligned pairs cannot be made of."""
        if self.adversarial is not None and self.adversarial.misaligned and min(map(len, parts)) < 2:
            raise SettingsError(
                "Misaligned pairs take another sample's caption, but a device takes one sample at a time: "
                "raise the batch size or micro_batch, or train without them."
            )
        self.velocity.begin(first, parts)

    def batch(self, step: int, part: Part) -> SprintBatch:
        """Draw samples, noise, angles and guidance scales of a part of a step's batch."""
        seed, device, settings = self.velocity.seed, self.velocity.device, self.consistency
        drawn = self.velocity.batch(step, part)
        generator, own = step_generator(further_seed(seed, 1), step), slice(part.start, part.stop)

        def normal() -> Tensor:
            return torch.randn(part.total, generator=generator, dtype=torch.float32)[own]

        def noise(which: int) -> Tensor:
            shape = tuple(drawn.noise.shape[1:])
            return sample_noise(further_seed(seed, which), step, part, shape).to(device, non_blocking=True)

        angle = angles(normal(), settings.mean, settings.std)
        which = torch.randint(len(settings.guidance), (part.total,), generator=generator)[own]
        fakes, other = None, self.adversarial
        if other is not None:
            asked = angles(normal(), settings.mean, settings.std)
            pure = torch.rand(part.total, generator=generator, dtype=torch.float32)[own] < other.pure_noise
            judged = trig_to_flow_time(angles(normal(), other.mean, other.std))
            fakes = Fakes(
                angle=torch.where(pure, math.pi / 2, asked).to(device, non_blocking=True),
                noise=noise(2),
                judged=judged.to(device, non_blocking=True),
                on_fake=noise(3),
                on_real=noise(4),
            )
        return SprintBatch(
            drawn=drawn,
            learning=self.learning(step),
            guidance=torch.tensor(settings.guidance, dtype=torch.float32)[which].to(device),
            angle=angle.to(device, non_blocking=True),
            ramp=settings.ramp(step if other is None else step // 2),
            fakes=fakes,
        )

    def loss(self, batch: SprintBatch) -> Tensor:
        """Return the sum of the samples' losses, each times its share of the global batch."""
        latents, text, mask = self.velocity.inputs(batch.drawn)
        errors = self._of_student if batch.learning == STUDENT else self._of_heads
        return (errors(batch, latents, text, mask) * batch.drawn.shares).sum()

    def filled(self, batch: SprintBatch) -> Tensor:
        """Return the share of the global batch that the part's samples are."""
        return self.velocity.filled(batch.drawn)

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure tangents, the distance from the teacher's ends, and the heads, over what is watched."""
        parts = cast(nn.ModuleDict, averaged)
        measured: dict[str, float] = {}
        for one in self.velocity.watched:
            found = self._measure(transformer_of(averaged), one)
            if self.adversarial is not None:
                found["hinge"] = self._hinge(transformer_of(averaged), cast(Heads, parts[HEADS]), one)
            measured |= {f"{one.name}{name}": value for name, value in found.items()}
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw the sheet's first prompts: the teacher in all its steps, then the student in 1, 2 and 4."""
        drawing, student = self.velocity.drawing, transformer_of(averaged)
        prompts = list(drawing.prompts[:COLUMNS])
        rows = [] if drawing.above is None else [drawing.above[: len(prompts)].cpu()]
        rows.append(drawing.decode(self._by_teacher(prompts, drawing.shape, drawing.steps)).cpu())
        for steps in STEPS_DRAWN:
            latents = draw_few(
                student, self.velocity.encoder, prompts, drawing.shape, guidance=self.middle, steps=steps
            )
            rows.append(drawing.decode(latents).cpu())
        return contact_sheet(torch.cat(rows), len(prompts))

    def _of_student(self, batch: SprintBatch, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the student's loss of each sample, B."""
        errors = batch.drawn.shares.new_zeros(())
        if self.consistency.weight:
            errors = self._of_consistency(batch, latents, text, mask)
        if self.adversarial is None:
            return self.consistency.weight * errors
        tokens = self._judged(self._fakes(batch, latents, text, mask), batch, text, mask)
        judgement = self.adversarial.weight * student_loss(self._heads.fixed(tokens))
        return self.consistency.weight * errors + judgement

    def _of_consistency(self, batch: SprintBatch, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of sCM of each sample, B."""
        student = student_prediction(self.student, text, mask, batch.guidance)
        sample = on_circle(latents, batch.drawn.noise, batch.angle)
        path = guided_teacher(self.teacher, text, mask, batch.guidance)(sample, batch.angle)
        prediction, change = tangent(
            student, sample, batch.angle, path, batch.ramp, self.consistency.derivative
        )
        if self.consistency.normalise:
            change = normalised(change, self.consistency.floor)
        return consistency_errors(prediction, change, batch.angle, self._expected(batch))

    def _of_heads(self, batch: SprintBatch, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the heads' loss of each sample, B."""
        fakes, adversarial = batch.fakes, self.adversarial
        assert fakes is not None
        assert adversarial is not None
        with torch.no_grad():
            drawn = self._judged(self._fakes(batch, latents, text, mask), batch, text, mask)
            noisy = interpolate(latents, fakes.on_real, fakes.judged)
            real = features(self.teacher, self._heads.blocks, noisy, fakes.judged, text, mask)
            rolled = None
            if adversarial.misaligned:
                noisy = interpolate(latents.roll(1, 0), fakes.on_real.roll(1, 0), fakes.judged)
                rolled = features(self.teacher, self._heads.blocks, noisy, fakes.judged, text, mask)
        of_rolled = None if rolled is None else self._heads(rolled)
        return heads_loss(self._heads(real), self._heads(drawn), of_rolled)

    def _fakes(self, batch: SprintBatch, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the student's clean latents in sight of newly noised samples, B C h w."""
        fakes = cast(Fakes, batch.fakes)
        sample = on_circle(latents, fakes.noise, fakes.angle)
        prediction = student_prediction(self.student, text, mask, batch.guidance)(sample, fakes.angle)
        return clean_from_prediction(sample, prediction, fakes.angle)

    def _judged(self, drawn: Tensor, batch: SprintBatch, text: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the teacher's features of drawn latents (B C h w), noised again."""
        fakes = cast(Fakes, batch.fakes)
        noisy = interpolate(drawn, fakes.on_fake, fakes.judged)
        return features(self.teacher, self._heads.blocks, noisy, fakes.judged, text, mask)

    def _expected(self, batch: SprintBatch) -> Tensor:
        """Return u of each sample, B, in float32: bfloat16 would round it by 6 % of the loss."""
        one = batch.drawn.noise[..., :1, :1]  # no latents come into it
        _, time, _ = self.student.embed(one, trig_to_flow_time(batch.angle), batch.guidance)
        with torch.autocast(time.device.type, enabled=False):
            return self._own[EXPECTED](time.float()).squeeze(1)

    def _measure(self, student: Sana, one: Watched) -> dict[str, float]:
        """Return tangents at the angles watched, and distances from the teacher's ends."""
        latents, text, mask = self._watched(one)
        noise = seeded_noise(len(latents), tuple(latents.shape[1:])).to(latents)
        guidance = torch.full((len(latents),), self.middle, device=latents.device, dtype=torch.float32)
        predict = student_prediction(student, text, mask, guidance)
        teach = guided_teacher(self.teacher, text, mask, guidance)
        found = {}
        for value in ANGLES_WATCHED:
            angle = torch.full_like(guidance, value)
            sample = on_circle(latents, noise, angle)
            path = teach(sample, angle)
            _, change = tangent(predict, sample, angle, path, 1.0, self.consistency.derivative)
            found[f"tangent_{value}"] = change.square().mean().sqrt().item()
        ends, undistilled = self._teacher_ends(one)
        angle = torch.full_like(guidance, math.pi / 2)
        found["away_1"] = _distance(clean_from_prediction(noise, predict(noise, angle), angle), ends)
        return found | {"undistilled_1": undistilled}

    def _hinge(self, student: Sana, heads: Heads, one: Watched) -> float:
        """Return the heads' loss on one-step drawings and real latents, without misaligned pairs."""
        latents, text, mask = self._watched(one)
        noise = seeded_noise(len(latents), tuple(latents.shape[1:])).to(latents)
        guidance = torch.full((len(latents),), self.middle, device=latents.device, dtype=torch.float32)
        angle = torch.full_like(guidance, math.pi / 2)
        prediction = student_prediction(student, text, mask, guidance)(noise, angle)
        fake = clean_from_prediction(noise, prediction, angle)
        adversarial = cast(Adversarial, self.adversarial)
        t = trig_to_flow_time(angles(torch.zeros_like(guidance), adversarial.mean, adversarial.std))
        real, drawn = (
            heads(features(self.teacher, heads.blocks, interpolate(x, noise.roll(1, 0), t), t, text, mask))
            for x in (latents, fake)
        )
        return heads_loss(real, drawn).mean().item()

    def _watched(self, one: Watched) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents, text features and their mask of a set that is watched."""
        latents = one.latents[:MEASURED].to(self.velocity.device)
        encoder = self.velocity.encoder
        return latents, *encoder.encode_tokens(encoder.tokenize(one.captions[:MEASURED], notes=[]))

    def _teacher_ends(self, one: Watched) -> tuple[Tensor, float]:
        """Return where the teacher's path ends, and how far its one-step drawings are from there."""
        if one.name not in self._ends:
            captions, shape = one.captions[:MEASURED], tuple(one.latents.shape[1:])
            ends = self._by_teacher(captions, shape, self.velocity.drawing.steps)
            self._ends[one.name] = ends, _distance(self._by_teacher(captions, shape, 1), ends)
        return self._ends[one.name]

    def _by_teacher(self, prompts: Sequence[str], shape: tuple[int, ...], steps: int) -> Tensor:
        return draw_latents(
            self.teacher,
            self.velocity.encoder,
            prompts,
            shape,
            shift=self.velocity.shift,
            guidance=self.middle,
            steps=steps,
        )

    @property
    def _own(self) -> nn.ModuleDict:
        return cast(nn.ModuleDict, cast(nn.ModuleDict, self.model)[STUDENT])

    @property
    def _heads(self) -> Heads:
        return cast(Heads, cast(nn.ModuleDict, self.model)[HEADS])


@torch.no_grad()
def draw_few(
    student: Sana,
    encoder: TextEncoder,
    prompts: Sequence[str],
    shape: tuple[int, ...],
    *,
    guidance: float,
    steps: int,
) -> Tensor:
    """Draw prompts with a student in few steps: B C h w, scaled latents, image i from the noise of seed i.

    shape: C h w of one. Of several steps, the noise between them belongs to the batch.
    """
    context = student.prepare(encoder.encode(list(prompts), notes=[]))
    solver = SCM(scm_times(steps))
    noise = seeded_noise(len(prompts), shape).to(next(student.parameters()).device)
    state = solver.start(noise, torch.Generator().manual_seed(len(prompts)))
    while not state.done:
        state = solver.advance(state, student.velocity(state.sample, state.t, context, guidance))
    return state.sample


def transformer_of(averaged: nn.Module) -> Sana:
    """Return the student's transformer of an objective's (averaged) model."""
    student = cast(nn.ModuleDict, cast(nn.ModuleDict, averaged)[STUDENT])
    return cast(Sana, student[TRANSFORMER])


def _distance(drawn: Tensor, ends: Tensor) -> float:
    return (drawn - ends).square().mean().sqrt().item()
