"""Self-forcing: a causal student of few steps and a critic learn in turns, from a teacher of whole clips.

The student draws clips chunk after chunk; of the feed it sees captions alone, of worlds the first frame and
the cameras, too. One step in six is the student's, by the difference of two scores (`distill/dmd.py`); in the
others the critic learns flow matching on the student's clips. The critic begins as the teacher; the student
should be a model that was trained in chunks (`ClipMixing.in_chunks`, `WorldMixing`).
Source: Self Forcing (arXiv:2506.08009), LongSANA (arXiv:2509.24695), SANA-WM's configurations; published
learning rates are 1e-5, the critic's a fifth of it: `rate_factors` of the run.
Shapes: B clips, C latent channels, T frames, h w latents, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.dialect import USUAL
from sanakit.errors import SettingsError
from sanakit.flow.path import interpolate
from sanakit.models.world.sana_wm import SanaWM
from sanakit.pipelines.video.streaming import chunk_lengths
from sanakit.seeds import further_seed, step_generator
from sanakit.train.distill.dmd import (
    Matching,
    clean_seen,
    critic_errors,
    matching_errors,
    matching_times,
    roll_out,
    score_difference,
)
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import ClipNetwork, Given
from sanakit.train.objectives.clip_velocity import ClipObjective, ClipVelocityBatch
from sanakit.train.objectives.flow_matching import TIMES_WATCHED, seeded_noise, stack_text
from sanakit.train.objectives.student_clips import StudentClips
from sanakit.train.objectives.world_velocity import WorldBatch, WorldObjective, chunks_of, idle_parameters
from sanakit.train.parts import Part, sample_noise

STUDENT, CRITIC = "student", "critic"  # names in a run's checkpoint
DECISIONS, FRESH = 2, 3  # which further random numbers are theirs; fresh noise of step k has FRESH + k


@dataclass(frozen=True, slots=True, eq=False)
class SelfForcingBatch:
    """A part of a global batch. last: the step whose clean clips are the student's, the same on all parts."""

    drawn: ClipVelocityBatch | WorldBatch
    learning: str
    last: int
    noises: Sequence[Tensor]  # B C T h w each: the first one, and those behind steps that take fresh noise
    t: Tensor  # B, that the student's clips are noised to
    noise: Tensor  # B C T h w, by which they are


class SelfForcingObjective:
    """A student of few steps and its critic, on the captions of an objective of clips or worlds.

    clips: with the teacher, which is frozen; its caption dropout should be 0. student: on the same device,
    of the same latents and text, and of the same kind. chunk: latent frames of a chunk. negative: what the
    teacher is guided away from. Raises SettingsError for another student, and for one that does not stream.
    """

    def __init__(
        self,
        clips: ClipObjective | WorldObjective,
        student: ClipNetwork,
        *,
        chunk: int,
        sampler: FewTimes,
        matching: Matching,
        negative: str = "",
    ) -> None:
        self.clips, self.chunk, self.sampler, self.matching = clips, chunk, sampler, matching
        self.teacher: ClipNetwork = clips.transformer.eval().requires_grad_(False)
        check_student(student, self.teacher)
        self.student, self.critic = (in_training(one) for one in (student, deepcopy(self.teacher)))
        compression = clips.compression if isinstance(clips, WorldObjective) else (1, 1)
        self.drawing = StudentClips(
            clips.encoder,
            clips.drawing,
            chunk=chunk,
            sampler=sampler,
            watched=clips.watched,
            compression=compression,
        )
        self.model: nn.Module = nn.ModuleDict({STUDENT: self.student, CRITIC: self.critic})
        self._negative = clips.encoder.encode_negative([negative], dialect=USUAL)

    def learning(self, step: int) -> str:
        """Return the part that learns in a step: the student in the first, and in one of six as published."""
        return STUDENT if step % (1 + self.matching.critic_steps) == 0 else CRITIC

    def steady(self, part: str) -> bool:
        """Return whether a part's learning rate stays the same: the critic's."""
        return part == CRITIC

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the feed get ready."""
        self.clips.begin(first, parts)

    def batch(self, step: int, part: Part) -> SelfForcingBatch:
        """Draw captions, noise, times and the last step of a part of a step's batch."""
        drawn, seed, device = self.clips.batch(step, part), self.clips.seed, self.clips.device
        generator = step_generator(further_seed(seed, DECISIONS), step)
        last = int(torch.randint(self.sampler.steps, (), generator=generator))
        t = matching_times(part.total, self.matching, generator)[part.start : part.stop]

        def noise(which: int) -> Tensor:
            shape = tuple(drawn.noise.shape[1:])
            return sample_noise(further_seed(seed, which), step, part, shape).to(device)

        fresh = range(1, last + 1 if self.sampler.fresh else 1)
        return SelfForcingBatch(
            drawn=drawn,
            learning=self.learning(step),
            last=last,
            noises=[drawn.noise, *(noise(FRESH + number) for number in fresh)],
            t=t.to(device),
            noise=noise(FRESH),
        )

    def loss(self, batch: SelfForcingBatch) -> Tensor:
        """Return the sum of the clips' losses, each times its share of the global batch."""
        text, mask = self.clips.words(batch.drawn)
        errors = self._of_student if batch.learning == STUDENT else self._of_critic
        return (errors(batch, text, mask, self.clips.given(batch.drawn)) * batch.drawn.shares).sum()

    def filled(self, batch: SelfForcingBatch) -> Tensor:
        """Return the share of the global batch that the part's clips are."""
        return self.clips.filled(batch.drawn)

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure the distance of critic and teacher on clips that the student draws of what is watched.

        It is counted over the distance of the clips from the teacher's; 0 is the end. Of worlds it is told
        whether they obey, too: see `StudentClips`.
        """
        parts = cast(nn.ModuleDict, averaged)
        student, critic = (cast(ClipNetwork, parts[name]) for name in (STUDENT, CRITIC))
        encoder, device = self.clips.encoder, self.clips.device
        measured = self.drawing.obedience(student)
        for one in self.clips.watched:
            text, mask = encoder.encode_tokens(encoder.tokenize(one.captions, notes=[]))
            given = self.clips.given_of(one)
            drawn = self.drawing.draw(student, text, mask, tuple(one.latents.shape[1:]), given)
            noise = seeded_noise(len(drawn), tuple(drawn.shape[1:])).flip(0).to(device)
            for time in TIMES_WATCHED:
                t = drawn.new_full((len(drawn),), time)
                difference = self._difference(critic, drawn, noise, t, text, mask, given)
                measured[f"{one.name}apart_{time}"] = difference.abs().mean().item()
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw by the student, as `StudentClips.sheet` does."""
        return self.drawing.sheet(cast(ClipNetwork, cast(nn.ModuleDict, averaged)[STUDENT]))

    def _of_student(self, batch: SelfForcingBatch, text: Tensor, mask: Tensor, given: Given) -> Tensor:
        """Return the loss of each of the student's clips, B."""
        drawn = self._rolled(batch, text, mask, given)
        with torch.no_grad():
            difference = self._difference(self.critic, drawn, batch.noise, batch.t, text, mask, given)
        return matching_errors(given.drawn(drawn), difference)

    def _of_critic(self, batch: SelfForcingBatch, text: Tensor, mask: Tensor, given: Given) -> Tensor:
        """Return flow matching's error of the critic on each of the student's clips, B."""
        with torch.no_grad():
            drawn = self._rolled(batch, text, mask, given)
        chunks = self._seen(drawn.shape[2])
        return critic_errors(self.critic, drawn, batch.noise, batch.t, text, mask, given=given, chunks=chunks)

    def _difference(
        self,
        critic: ClipNetwork,
        drawn: Tensor,
        noise: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor,
        given: Given,
    ) -> Tensor:
        """Return what the student is moved by at a time, B C T h w, of the frames that are not known."""
        noisy, how = interpolate(drawn, noise, t), {"given": given, "chunks": self._seen(drawn.shape[2])}
        real = clean_seen(self.teacher, noisy, t, text, mask, **how)
        if self.matching.guidance != 1:
            nothing = [part.expand(len(drawn), *part.shape[1:]) for part in stack_text(self._negative)]
            away = clean_seen(self.teacher, noisy, t, nothing[0], nothing[1], **how)
            real = away + self.matching.guidance * (real - away)
        fake = clean_seen(critic, noisy, t, text, mask, **how)
        return score_difference(*(given.drawn(one) for one in (drawn, real, fake)))

    def _rolled(self, batch: SelfForcingBatch, text: Tensor, mask: Tensor, given: Given) -> Tensor:
        """Draw a part's clips by the student, B C T h w."""
        chunks = chunk_lengths(batch.noises[0].shape[2], self.chunk)
        how = {"chunks": chunks, "sampler": self.sampler, "last": batch.last, "given": given}
        return roll_out(self.student, batch.noises, text, mask, **how)

    def _seen(self, frames: int) -> list[int] | None:
        """Return the chunks in which teacher and critic see a clip; None: whole."""
        if not isinstance(self.teacher, SanaWM):
            return None
        return chunks_of(self.teacher.config.variant, frames, self.chunk)


def in_training(model: ClipNetwork) -> ClipNetwork:
    """Return a model whose weights are trained, but for those of a world that nothing reaches."""
    model.train().requires_grad_(True)
    for parameter in idle_parameters(model) if isinstance(model, SanaWM) else ():
        parameter.requires_grad_(False)
    return model


def check_student(student: ClipNetwork, teacher: ClipNetwork) -> None:
    """Raise SettingsError unless a student is of its teacher's kind, and draws chunk after chunk."""
    if type(student) is not type(teacher):
        kinds = ("worlds", "clips") if isinstance(student, SanaWM) else ("clips", "worlds")
        raise SettingsError(f"The student draws {kinds[0]}, its teacher {kinds[1]}: use models of one kind.")
    for name in ("latent_channels", "text_width", "patch"):
        here, there = getattr(student.config, name), getattr(teacher.config, name)
        if here != there:
            raise SettingsError(f"The student has {name} = {here}, its teacher {there}: use the same.")
    if not student.config.causal:
        raise SettingsError(
            "The student sees whole clips, and is to draw chunk after chunk: train it in chunks first."
        )
