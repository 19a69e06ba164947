"""ODE initialisation: a causal student of few steps regresses the ends of its teacher's trajectories.

The second stage between a model of whole clips and one that streams: chunk-causal training comes before it
(`clip_velocity.py`), self-forcing behind it (`self_forcing.py`). The teacher has drawn its trajectories
beforehand (`feeds/trajectories.py`); the loss is that of `distill/trajectories.py`. Each chunk of a clip is
shown at one of the few times, or as its end, drawn for each chunk alone. Of worlds the first frame and the
cameras are known.
Source: CausVid (arXiv:2412.07772), LongSANA (arXiv:2509.24695) and its released training.
Shapes: B clips, C latent channels, T frames, h w latents, K chunks, S few times, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.pipelines.video.streaming import chunk_lengths
from sanakit.seeds import further_seed, permutation, step_generator
from sanakit.train.distill.given import NOTHING, ClipNetwork, Given
from sanakit.train.distill.trajectories import trajectory_errors
from sanakit.train.feeds.trajectories import Trajectories
from sanakit.train.objectives.flow_matching import pad_text
from sanakit.train.objectives.self_forcing import in_training
from sanakit.train.objectives.student_clips import StudentClips
from sanakit.train.objectives.velocity import TEXT_MULTIPLE, TRANSFORMER
from sanakit.train.parts import Part

PLACES = 1  # which further random numbers decide at which states chunks are shown


@dataclass(frozen=True, slots=True, eq=False)
class OdeBatch:
    """A part of a global batch of trajectories."""

    states: Tensor  # B S+1 C T h w
    steps: Tensor  # B K, at which of them each chunk is shown
    tails: list[list[int]]  # token ids of the prompts, behind the instruction
    given: Given
    share: float  # what each counts in the global batch


class OdeObjective:
    """A causal student, on trajectories of its teacher.

    student: on its device. trajectories: of the sampler's times and the student's latents. held_out: the last
    of the trajectories, that are measured on and not learned. drawing: how the student draws. given: what is
    known of trajectories, by their numbers. Raises SettingsError for other trajectories, or if none is left
    to learn.
    """

    def __init__(
        self,
        student: ClipNetwork,
        trajectories: Trajectories,
        drawing: StudentClips,
        *,
        held_out: int,
        given: Callable[[Sequence[int]], Given] = lambda numbers: NOTHING,
        seed: int = 0,
    ) -> None:
        about, sampler = trajectories.about, drawing.sampler
        own = (tuple(sampler.model_times), tuple(sampler.times.tolist()))
        if own != ((*about.times, 0.0), about.levels):
            raise SettingsError(
                f"The trajectories are at times {about.times}, the student's are {sampler.model_times[:-1]}: "
                "draw them for the student's times."
            )
        if about.shape[0] != student.config.latent_channels:
            raise SettingsError(
                f"The trajectories have {about.shape[0]} latent channels, the student "
                f"{student.config.latent_channels}: use a student of the teacher's latents."
            )
        self.learned = len(trajectories) - held_out
        if self.learned < 1 or held_out < 0:
            raise SettingsError(
                f"{held_out} of {len(trajectories)} trajectories are held out: leave at least one to learn."
            )
        self.encoder, self.trajectories, self.sampler = drawing.encoder, trajectories, sampler
        self.encoder.model.requires_grad_(False)
        self.student = in_training(student)
        self.device = next(student.parameters()).device
        self.chunks = chunk_lengths(about.shape[1], drawing.chunk)
        self.drawing, self.given, self.seed = drawing, given, seed
        self.model: nn.Module = nn.ModuleDict({TRANSFORMER: self.student})

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Do nothing: trajectories are read on request."""

    def batch(self, step: int, part: Part) -> OdeBatch:
        """Take the next trajectories of an endless shuffle, and draw the states that chunks are shown at."""
        generator = step_generator(further_seed(self.seed, PLACES), step)
        count = len(self.sampler.times)
        steps = torch.randint(count, (part.total, len(self.chunks)), generator=generator)
        numbers = self._numbers(step, part)
        return OdeBatch(
            states=self.trajectories.states(numbers).to(self.device),
            steps=steps[part.start : part.stop].to(self.device),
            tails=self._tails(numbers),
            given=self.given(numbers),
            share=1 / part.total,
        )

    def loss(self, batch: OdeBatch) -> Tensor:
        """Return the sum of the clips' errors, each times its share of the global batch."""
        errors = self._errors(self.student, batch.states, batch.steps, batch.tails, batch.given)
        return (errors * batch.share).sum()

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure on the held-out trajectories, or on the first ones: the mean square at each time.

        "end_0.96": all chunks are shown at that time. It is counted over the mean square of the ends. Of
        worlds it is told whether they obey, too: see `StudentClips`.
        """
        student, numbers = self._averaged(averaged), self._watched()
        measured = dict.fromkeys(self.sampler.model_times[:-1], 0.0)
        for number in numbers:  # one by one: few or many take the same memory
            states, tails = self.trajectories.states([number]).to(self.device), self._tails([number])
            given = self.given([number])
            whole = given.drawn(states[:, -1]).square().mean().item()
            for step, time in enumerate(measured):
                steps = torch.full((1, len(self.chunks)), step, dtype=torch.int64, device=self.device)
                error = self._errors(student, states, steps, tails, given).item()
                measured[time] += error / whole / len(numbers)
        ends = {f"end_{time:g}": value for time, value in measured.items()}
        return ends | self.drawing.obedience(student)

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw in all steps, chunk after chunk, as `StudentClips.sheet` does."""
        return self.drawing.sheet(self._averaged(averaged))

    def _errors(
        self,
        student: ClipNetwork,
        states: Tensor,
        steps: Tensor,
        tails: Sequence[Sequence[int]],
        given: Given,
    ) -> Tensor:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            text, mask = pad_text(*self.encoder.encode_tokens(tails), TEXT_MULTIPLE)
        settings = {"chunks": self.chunks, "sampler": self.sampler, "given": given}
        return trajectory_errors(student, states, steps, text, mask, **settings)

    def _numbers(self, step: int, part: Part) -> list[int]:
        """Return which trajectories a part shows: all once in random order, then all again."""
        found: list[int] = []
        for place in range(step * part.total + part.start, step * part.total + part.stop):
            epoch, number = divmod(place, self.learned)
            found.append(int(permutation(self.seed, epoch, 0, self.learned)[number]))
        return found

    def _watched(self) -> list[int]:
        if self.learned < len(self.trajectories):
            return list(range(self.learned, len(self.trajectories)))
        return list(range(min(4, self.learned)))

    def _tails(self, numbers: Sequence[int]) -> list[list[int]]:
        prompts = self.trajectories.about.prompts
        return self.encoder.tokenize([prompts[number] for number in numbers], notes=[])

    @staticmethod
    def _averaged(averaged: nn.Module) -> ClipNetwork:
        return cast(ClipNetwork, cast(nn.ModuleDict, averaged)[TRANSFORMER])
