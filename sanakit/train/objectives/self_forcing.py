"""Self-forcing: a causal student of few steps and a critic learn in turns, from a teacher of whole clips.

The student draws clips chunk after chunk from noise alone; only the captions of the feed are used. One step
in six is the student's, by the difference of two scores (`distill/dmd.py`); in the others the critic learns
flow matching on the student's clips. The critic begins as the teacher; the student should be a model that was
trained in chunks (`ClipMixing.in_chunks`).
Source: Self Forcing (arXiv:2506.08009), LongSANA (arXiv:2509.24695); published learning rates are 1e-5, the
critic's a fifth of it: `rate_factors` of the run.
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
from sanakit.flow.few_step import FewStep
from sanakit.flow.path import interpolate
from sanakit.models.video.sana_video import SanaVideo
from sanakit.pipelines.video.streaming import chunk_lengths
from sanakit.seeds import further_seed, step_generator
from sanakit.train.distill.dmd import (
    Matching,
    clean_seen,
    matching_errors,
    matching_times,
    roll_out,
    score_difference,
)
from sanakit.train.objectives.clip_velocity import ClipObjective, ClipVelocityBatch, sheet_of_clips
from sanakit.train.objectives.flow_matching import TIMES_WATCHED, seeded_noise, stack_text, velocity_errors
from sanakit.train.parts import Part, sample_noise

STUDENT, CRITIC = "student", "critic"  # names in a run's checkpoint
CRITIC_STEPS = 5  # for each of the student's
DECISIONS, FRESH = 2, 3  # which further random numbers are theirs; fresh noise of step k has FRESH + k


@dataclass(frozen=True, slots=True, eq=False)
class SelfForcingBatch:
    """A part of a global batch. last: the step whose clean clips are the student's, the same on all parts."""

    drawn: ClipVelocityBatch
    learning: str
    last: int
    noises: Sequence[Tensor]  # B C T h w each: the first one, and those behind steps
    t: Tensor  # B, that the student's clips are noised to
    noise: Tensor  # B C T h w, by which they are


class SelfForcingObjective:
    """A student of few steps and its critic, on the captions of an objective of clips.

    clips: with the teacher, which is frozen; its caption dropout should be 0. student: on the same device,
    of the same latents and text. chunk: latent frames of a chunk. negative: what the teacher is guided away
    from. Raises SettingsError for another student.
    """

    def __init__(
        self,
        clips: ClipObjective,
        student: SanaVideo,
        *,
        chunk: int,
        sampler: FewStep,
        matching: Matching,
        negative: str = "",
    ) -> None:
        self.clips, self.chunk, self.sampler, self.matching = clips, chunk, sampler, matching
        self.teacher = clips.transformer.eval().requires_grad_(False)
        for name in ("latent_channels", "text_width", "patch"):
            here, there = getattr(student.config, name), getattr(self.teacher.config, name)
            if here != there:
                raise SettingsError(f"The student has {name} = {here}, its teacher {there}: use the same.")
        self.student = student.train().requires_grad_(True)
        self.critic = deepcopy(self.teacher).train().requires_grad_(True)
        self.model: nn.Module = nn.ModuleDict({STUDENT: self.student, CRITIC: self.critic})
        self._negative = clips.encoder.encode_negative([negative], dialect=USUAL)

    def learning(self, step: int) -> str:
        """Return the part that learns in a step: the student in one of six, from the first on."""
        return STUDENT if step % (1 + CRITIC_STEPS) == 0 else CRITIC

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
        last = int(torch.randint(self._steps, (), generator=generator))
        t = matching_times(part.total, self.matching, generator)[part.start : part.stop]

        def noise(which: int) -> Tensor:
            shape = tuple(drawn.noise.shape[1:])
            return sample_noise(further_seed(seed, which), step, part, shape).to(device)

        return SelfForcingBatch(
            drawn=drawn,
            learning=self.learning(step),
            last=last,
            noises=[drawn.noise, *(noise(FRESH + number) for number in range(1, last + 1))],
            t=t.to(device),
            noise=noise(FRESH),
        )

    def loss(self, batch: SelfForcingBatch) -> Tensor:
        """Return the sum of the clips' losses, each times its share of the global batch."""
        text, mask = self.clips.words(batch.drawn)
        errors = self._of_student if batch.learning == STUDENT else self._of_critic
        return (errors(batch, text, mask) * batch.drawn.shares).sum()

    def filled(self, batch: SelfForcingBatch) -> Tensor:
        """Return the share of the global batch that the part's clips are."""
        return self.clips.filled(batch.drawn)

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure the distance of critic and teacher on clips that the student draws of what is watched.

        It is counted over the distance of the clips from the teacher's; 0 is the end.
        """
        parts, measured = cast(nn.ModuleDict, averaged), dict[str, float]()
        student, critic = (cast(SanaVideo, parts[name]) for name in (STUDENT, CRITIC))
        encoder, device = self.clips.encoder, self.clips.device
        for one in self.clips.watched:
            text, mask = encoder.encode_tokens(encoder.tokenize(one.captions, notes=[]))
            drawn = self._drawn(student, text, mask, tuple(one.latents.shape[1:]))
            noise = seeded_noise(len(drawn), tuple(drawn.shape[1:])).flip(0).to(device)
            for time in TIMES_WATCHED:
                t = drawn.new_full((len(drawn),), time)
                difference = self._difference(critic, drawn, noise, t, text, mask)
                measured[f"{one.name}apart_{time}"] = difference.abs().mean().item()
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw the sheet's prompts by the student: middle frames, and strips of some."""
        student = cast(SanaVideo, cast(nn.ModuleDict, averaged)[STUDENT])
        drawing, encoder = self.clips.drawing, self.clips.encoder
        text, mask = encoder.encode_tokens(encoder.tokenize(list(drawing.prompts), notes=[]))
        return sheet_of_clips(drawing.decode(self._drawn(student, text, mask, drawing.shape)))

    @property
    def _steps(self) -> int:
        return len(self.sampler.times) - 1

    def _of_student(self, batch: SelfForcingBatch, text: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of each of the student's clips, B."""
        drawn = self._rolled(self.student, batch.noises, batch.last, text, mask)
        with torch.no_grad():
            difference = self._difference(self.critic, drawn, batch.noise, batch.t, text, mask)
        return matching_errors(drawn, difference)

    def _of_critic(self, batch: SelfForcingBatch, text: Tensor, mask: Tensor) -> Tensor:
        """Return flow matching's error of the critic on each of the student's clips, B."""
        with torch.no_grad():
            drawn = self._rolled(self.student, batch.noises, batch.last, text, mask)
        return velocity_errors(self.critic, drawn, batch.noise, batch.t, text, mask)

    def _difference(
        self, critic: SanaVideo, drawn: Tensor, noise: Tensor, t: Tensor, text: Tensor, mask: Tensor
    ) -> Tensor:
        """Return what the student is moved by at a time, B C T h w."""
        noisy = interpolate(drawn, noise, t)
        nothing = [part.expand(len(drawn), *part.shape[1:]) for part in stack_text(self._negative)]
        guided = clean_seen(self.teacher, noisy, t, text, mask)
        away = clean_seen(self.teacher, noisy, t, nothing[0], nothing[1])
        real = away + self.matching.guidance * (guided - away)
        return score_difference(drawn, real, clean_seen(critic, noisy, t, text, mask))

    def _rolled(
        self, student: SanaVideo, noises: Sequence[Tensor], last: int, text: Tensor, mask: Tensor
    ) -> Tensor:
        chunks = chunk_lengths(noises[0].shape[2], self.chunk)
        return roll_out(student, noises, text, mask, chunks=chunks, sampler=self.sampler, last=last)

    def _drawn(self, student: SanaVideo, text: Tensor, mask: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw clips in all steps, B C T h w."""
        return draw_in_chunks(student, text, mask, shape, chunk=self.chunk, sampler=self.sampler)


@torch.no_grad()
def draw_in_chunks(
    student: SanaVideo,
    text: Tensor,
    mask: Tensor,
    shape: tuple[int, ...],
    *,
    chunk: int,
    sampler: FewStep,
) -> Tensor:
    """Draw prompts by a causal student, in all steps of its sampler: B C T h w, clip i from noise of its own.

    text: B L E. mask: B L. shape: C T h w of one clip. chunk: latent frames of a chunk.
    """
    steps = len(sampler.times) - 1
    noise = seeded_noise(len(text) * steps, shape).to(text.device)
    chunks = chunk_lengths(shape[1], chunk)
    return roll_out(
        student, noise.split(len(text)), text, mask, chunks=chunks, sampler=sampler, last=steps - 1
    )
