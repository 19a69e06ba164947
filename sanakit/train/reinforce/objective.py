"""Reinforcement as an objective of the loop: a step draws, judges, and learns from what it drew.

A step's batch is drawn by the old policy at its first part: `prompts` groups of `keep` images each. A sample
of the batch is one image at one time of the rollout's grid, so a step has prompts * keep * times samples,
image after image, and micro-batches may be cut anywhere. The last tenth of the times nearest to the image is
left out, as published. Processes draw whole groups; all rewards of a step are gathered for advantages.

A step's drawings depend on the seed, the step and the old policy, which the checkpoint holds. So a resumed
run has the losses of an uninterrupted one.

Figures of each line of the log, means over its steps: `reward` of the images that trained, `spread` (the
standard deviation within a prompt), `zero_spread` (share of prompts that taught nothing as all their images
were judged alike), `draft_ranks` (rank correlation of drafts and full images among those that were kept),
`away_from_reference`, `draw_seconds`; in the first line `draft_correlation`, as measured before training.
Shapes: G groups, K images each, T times, B samples of a part, C h w latents, L text tokens, E text width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.flow.guidance import classifier_free
from sanakit.flow.path import interpolate
from sanakit.images.sheets import contact_sheet
from sanakit.models.sana import Sana
from sanakit.quant.plans import find_plan
from sanakit.seeds import permutation, rollout_seed
from sanakit.train.distributed.parallel import gathered
from sanakit.train.feeds.feed import decoded
from sanakit.train.objectives.flow_matching import stack_text
from sanakit.train.parts import Part, sample_noise
from sanakit.train.reinforce.algorithm import Algorithm, Visit, away_from
from sanakit.train.reinforce.groups import advantages, rank_correlation, without_spread
from sanakit.train.reinforce.policies import Policies
from sanakit.train.reinforce.rollout import RolloutGroup, Rollouts, draft_correlation
from sanakit.train.reinforce.watch import Watch

TRAINED = 0.99  # of the steps' times, rounded down: all but the last one
WATCH = "watch"  # its part of a run's checkpoint
SHOWN = 8  # prompts of a sheet
BEFORE = 2**32  # first seed of the drafts that are compared before training: rollouts have lower ones

Decay = Callable[[int], float]


def published_decay(step: int) -> float:
    """Return Sol-RL's decay of the old policy before a step's rollouts: 0 first, up to 1/2.

    >>> published_decay(0), published_decay(20), published_decay(10_000)
    (0.0, 0.02, 0.5)
    """
    return min(0.001 * step, 0.5)


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """A part of a step's batch. text: B L E, mask: B L; twice as many with guidance, as in `Batch`."""

    visit: Visit
    text: Tensor
    mask: Tensor
    total: int  # samples of all parts


class ReinforceObjective:
    """Policies that learn from rollouts; see the module's text.

    prompts: to train on, at least as many as a step draws. watch: prompts that are held out. decay: of the
    old policy, by the step. Raises SettingsError for too few prompts.
    """

    def __init__(
        self,
        policies: Policies,
        rollouts: Rollouts,
        algorithm: Algorithm,
        watch: Watch,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        decay: Decay = published_decay,
    ) -> None:
        if len(prompts) < rollouts.plan.prompts:
            raise SettingsError(
                f"A step draws {rollouts.plan.prompts} prompts, but there are {len(prompts)} to train on: "
                "add prompts, or draw fewer."
            )
        self.policies, self.rollouts, self.algorithm, self.watch = policies, rollouts, algorithm, watch
        self.prompts, self.seed, self.decay = list(prompts), seed, decay
        self.model: nn.Module = policies.model
        policies.model[WATCH] = watch.strikes
        self.device = next(policies.learning.parameters()).device
        times = rollouts.solver(rollouts.plan.steps).times
        self.times = times[: max(1, int(rollouts.plan.steps * TRAINED))].float()
        self._after = times[1:].float()
        self._guided = rollouts.learns_steps and rollouts.plan.guidance > 1
        self._own = range(0)  # groups of this process
        self._step: int | None = None  # whose groups these are
        self._groups: list[RolloutGroup] = []
        self._advantages = torch.empty(0, 0, dtype=torch.float32)
        self._texts: dict[str, Tensor] = {}
        self._told: dict[str, list[float]] = defaultdict(list)

    @property
    def samples(self) -> int:
        """The samples of a step: the batch size of its run."""
        return self.rollouts.plan.prompts * self._each

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Find this process's groups, and compare drafts with full images before the first step.

        Raises SettingsError for groups that would be cut by processes, for weights that are spread, and for
        drafts that rank images unlike full ones.
        """
        start, stop = parts[0].start, parts[-1].stop
        if parts[0].total != self.samples or start % self._each or stop % self._each:
            raise SettingsError(
                f"{self.rollouts.plan.prompts} prompts of {self._each} samples cannot be cut into these "
                f"parts: use a batch of {self.samples} and a number of processes that divides the prompts."
            )
        if any(hasattr(parameter, "to_local") for parameter in self.model.parameters()):
            raise SettingsError("Rollouts need whole weights in each process: start with --parallel ddp.")
        self._own, self._step = range(start // self._each, stop // self._each), None
        plan = self.rollouts.plan
        if first == 0 and plan.drafted and plan.checked_prompts:
            some = self.prompts[: plan.checked_prompts]
            drafting = self._drafting()
            found = draft_correlation(self.rollouts, self.policies.old, drafting, some, BEFORE)
            if found < plan.least_correlation:
                raise SettingsError(
                    f"Drafts of {plan.draft_steps} steps rank images unlike {plan.steps} steps do: their "
                    f"rank correlation is {found:.2f}, and should be at least {plan.least_correlation:g}. "
                    "Use more draft_steps, a finer draft_plan or none, or draft_steps = 0: all in full."
                )
            self._told["draft_correlation"].append(found)

    def batch(self, step: int, part: Part) -> RolloutBatch:
        """Return samples of the step's rollouts, which are drawn when its first part is asked for."""
        if self._step != step:
            self._roll(step)
        numbers = range(part.start - self._own.start * self._each, part.stop - self._own.start * self._each)
        images = [number // len(self.times) for number in numbers]
        places = torch.tensor([number % len(self.times) for number in numbers])
        groups = [self._groups[image // self._kept] for image in images]
        within = [image % self._kept for image in images]
        clean = torch.stack([group.latents[one] for group, one in zip(groups, within, strict=True)])
        t, after, following = self.times[places], None, None
        if self.rollouts.learns_steps:
            steps = torch.stack([_steps_of(group)[one] for group, one in zip(groups, within, strict=True)])
            rows = torch.arange(len(steps))
            sample, following = steps[rows, places], steps[rows, places + 1].to(self.device)
            after = self._after[places].to(self.device)
        else:
            sample = interpolate(clean, sample_noise(self.seed, step, part, tuple(clean.shape[1:])), t)
        better = torch.stack([self._advantages[i // self._kept, i % self._kept] for i in images])
        texts = [self._texts[group.prompt] for group in groups]
        if self._guided:
            texts = [self._texts[""]] * len(texts) + texts
        visit = Visit(
            sample=sample.to(self.device),
            t=t.to(self.device),
            clean=clean.to(self.device),
            advantage=better.to(self.device),
            after=after,
            next_sample=following,
        )
        return RolloutBatch(visit, *stack_text(texts), part.total)

    def loss(self, batch: RolloutBatch) -> Tensor:
        """Return the sum of the samples' errors, over all samples of the step."""
        velocity = self._velocity(self.policies.learning, batch)
        with torch.no_grad():
            old = self._velocity(self.policies.old, batch)
            reference = self._velocity(self.policies.reference, batch)
            away = away_from(velocity, reference)
        self._told["away_from_reference"] += away.tolist()
        return self.algorithm.errors(batch.visit, velocity, old, reference).sum() / batch.total

    def figures(self) -> dict[str, float]:
        """Return the figures since the last call; see the module's text."""
        found = {name: sum(values) / len(values) for name, values in self._told.items() if values}
        self._told.clear()
        return found

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Draw and judge held-out prompts; see `watch.py`."""
        return self.watch.measure(self.policies.averaged(averaged))

    def ended(self) -> str:
        """Return why the training is to end; "" while it goes on."""
        return self.watch.ended()

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw held-out prompts: the reference above, the averaged policy below, from the same noise."""
        watch, steps, own = self.watch, self.rollouts.plan.steps, self.policies.averaged(averaged)
        before = watch.before().latents[:SHOWN, 0]
        drawn = [
            self.rollouts.draw(own, prompt, [number * watch.each], steps).latents
            for number, prompt in enumerate(watch.prompts[:SHOWN])
        ]
        return contact_sheet(decoded(self.rollouts.codec, torch.cat([before, *drawn])), len(before))

    @property
    def _kept(self) -> int:
        return self.rollouts.plan.keep

    @property
    def _each(self) -> int:
        """Samples of a group."""
        return self._kept * len(self.times)

    def _drafting(self) -> Sana:
        plan = self.rollouts.plan
        if not plan.drafted:
            return self.policies.old
        return self.policies.drafting(None if plan.draft_plan is None else find_plan(plan.draft_plan))

    @torch.no_grad()
    def _roll(self, step: int) -> None:
        """Let the old policy follow, and draw this process's groups of a step."""
        if step > 0:
            self.policies.follow(self.decay(step))
        started, encoder = perf_counter(), self.rollouts.encoder
        drafting = self._drafting()
        self._groups = [
            self.rollouts.group(
                self.policies.old, drafting, self._prompt(step, number), rollout_seed(self.seed, step, number)
            )
            for number in self._own
        ]
        self._step = step
        self._texts = {}
        for group in self._groups:
            if group.prompt not in self._texts:
                (self._texts[group.prompt],) = encoder.encode(
                    [group.prompt], [], self.rollouts.settings.dialect
                )
        if self._guided:
            (self._texts[""],) = encoder.encode_negative([""], [], self.rollouts.settings.dialect)
        rewards = torch.stack([group.rewards for group in self._groups])  # G K
        self._advantages = advantages(gathered(rewards))[self._own.start : self._own.stop]
        told = self._told
        told["draw_seconds"].append(perf_counter() - started)
        told["reward"].append(rewards.mean().item())
        told["spread"].append(rewards.std(1, correction=0).mean().item())
        told["zero_spread"].append(without_spread(rewards).float().mean().item())
        for group in self._groups:
            if (
                group.drafts is not None
                and (found := rank_correlation(group.drafts, group.rewards)) is not None
            ):
                told["draft_ranks"].append(found)

    def _prompt(self, step: int, number: int) -> str:
        """Return a prompt of a step: each epoch shuffles all of them."""
        epoch, place = divmod(step * self.rollouts.plan.prompts + number, len(self.prompts))
        return self.prompts[permutation(self.seed, epoch, 0, len(self.prompts))[place]]

    def _velocity(self, transformer: Sana, batch: RolloutBatch) -> Tensor:
        """Return a policy's velocities, B C h w float32; guided where rollouts' own steps were."""
        visit = batch.visit
        if not self._guided:
            return transformer(visit.sample, visit.t, batch.text, batch.mask).float()

        def both(latents: Tensor, t: float | Tensor) -> Tensor:
            assert isinstance(t, Tensor)
            return transformer(latents.repeat(2, 1, 1, 1), t.repeat(2), batch.text, batch.mask)

        return classifier_free(both, self.rollouts.plan.guidance)(visit.sample, visit.t)


def _steps_of(group: RolloutGroup) -> Tensor:
    """Return all steps of a group's rollouts, K S+1 C h w."""
    assert group.path is not None, "of an algorithm that learns from steps"
    return group.path
