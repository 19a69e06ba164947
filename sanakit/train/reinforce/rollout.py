"""Rollouts: images that policies draw through our own pipeline, each from its own seed.

In two stages, as Sol-RL does it: a quantised copy of the old policy drafts many images of a prompt in few
steps; the seeds of the best and the worst drafts are drawn again by the old policy itself in all steps. Only
these images and their rewards train. That pays where drafts are ranked as the full images are, which
`draft_correlation` measures: a deterministic solver leads from the same noise to nearly the same image.

Source: Sol-RL (NVlabs/Sana), two-stage rollouts. Shapes: N candidates, K kept, C h w latents, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.euler import Euler
from sanakit.flow.guidance import check_scale
from sanakit.flow.path import check_steps, shift_times
from sanakit.flow.solver import Solver
from sanakit.models.contracts import TextModel
from sanakit.models.dc_ae import DCAE
from sanakit.models.sana import Sana
from sanakit.pipelines.request import MAX_IMAGES, check_request, make_sampler
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.quant.plans import find_plan
from sanakit.train.reinforce.algorithm import Algorithm
from sanakit.train.reinforce.groups import best_and_worst, rank_correlation
from sanakit.train.reinforce.rewards import Reward, scored
from sanakit.weights.settings import ModelSettings

Grid = Literal["even", "own"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutPlan:
    """How prompts are drawn; the defaults are Sol-RL's.

    prompts: of an update, of all processes. candidates: images drawn of a prompt. keep: how many of them
    train, half of them the best and half the worst; even. draft_steps: of candidates; 0: all are drawn in
    full. draft_plan: what the drafting copy is quantised by; None: not at all. steps: of full images.
    guidance: up to 1: without. grid: "even": Euler at even times from 1 to 0, as published; "own": the
    model's own solver and shift; of noisy rollouts its shift alone. at_once: images in one batch.
    checked_prompts: on how many the ranks of drafts and full images are compared before training, which is
    refused below least_correlation; 0: they are not compared. Raises SettingsError.
    """

    prompts: int = 48
    candidates: int = 96
    keep: int = 24
    draft_steps: int = 6
    draft_plan: str | None = "int8"
    steps: int = 10
    guidance: float = 1.0
    grid: Grid = "even"
    at_once: int = 24
    checked_prompts: int = 4
    least_correlation: float = 0.3

    def __post_init__(self) -> None:
        if self.keep % 2 or not 2 <= self.keep <= self.candidates <= MAX_IMAGES:
            raise SettingsError(
                f"{self.keep} of {self.candidates} candidates are kept: use an even number of at least 2, "
                f"and as many candidates or more, up to {MAX_IMAGES}."
            )
        for name, least in (("prompts", 1), ("at_once", 1), ("checked_prompts", 0), ("draft_steps", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} = {getattr(self, name)}, but it must be at least {least}.")
        if not -1 <= self.least_correlation <= 1:
            raise SettingsError(f"least_correlation = {self.least_correlation}; use a number from -1 to 1.")
        if self.grid not in get_args(Grid):
            raise SettingsError(f"grid = {self.grid!r}, but it must be one of {', '.join(get_args(Grid))}.")
        check_steps(self.steps)
        check_scale(self.guidance)
        if self.draft_plan is not None:
            find_plan(self.draft_plan)
        if self.draft_steps:
            check_steps(self.draft_steps)
            if self.keep == self.candidates:
                raise SettingsError(
                    f"All {self.keep} candidates are kept, so drafts choose nothing: raise the candidates, "
                    "or set draft_steps to 0."
                )

    @property
    def drafted(self) -> bool:
        """Whether candidates are drafts."""
        return self.draft_steps > 0


@dataclass(frozen=True, slots=True, eq=False)
class DrawnImages:
    """Images of one prompt. latents: N C h w. rewards: J N, of each judge. path: N S+1 C h w, or None."""

    latents: Tensor
    rewards: Tensor
    path: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class RolloutGroup:
    """A prompt's images that train. seeds: K. rewards: K. drafts: K, the drafts' rewards, or None."""

    prompt: str
    seeds: tuple[int, ...]
    latents: Tensor  # K C h w, on the CPU
    rewards: Tensor
    drafts: Tensor | None
    path: Tensor | None  # K S+1 C h w, where the algorithm learns from steps


class Rollouts:
    """Draws prompts with any transformer of a model, and has the images judged.

    codec, encoder, settings: the model's. algorithm: whose solver is used, if it has one. reward: of images
    of training. Raises SettingsError for drafts under an algorithm whose rollouts are noisy.
    """

    def __init__(
        self,
        codec: DCAE,
        encoder: TextModel,
        settings: ModelSettings,
        plan: RolloutPlan,
        algorithm: Algorithm,
        reward: Reward,
    ) -> None:
        self.codec, self.encoder, self.plan, self.reward = codec, encoder, plan, reward
        # Notes and unknown things were told where the model was loaded; guidance is what the plan says.
        self.settings = replace(settings, known_things=None, notes=(), guidance_kind="cfg")
        self.algorithm = algorithm
        self.learns_steps = algorithm.solver(even_times(plan.steps)) is not None
        if self.learns_steps and plan.drafted:
            raise SettingsError(
                "Rollouts of this algorithm hold noise that drafts do not have, so drafts choose nothing "
                "better than chance: set draft_steps to 0."
            )

    def solver(self, steps: int, whole: bool | None = None) -> Solver:
        """Return the solver of rollouts in a number of steps. whole: as for `make_sampler`."""
        own = self.plan.grid == "own"
        times = shift_times(even_times(steps), self.settings.shift) if own else even_times(steps)
        if (noisy := self.algorithm.solver(times)) is not None:
            return noisy
        plain = make_sampler(self.settings.solver, steps, self.settings.shift, whole=whole) if own else None
        return plain or Euler(times)

    def group(self, old: Sana, drafting: Sana, prompt: str, first: int) -> RolloutGroup:
        """Draw a prompt's candidates, and return those that train.

        drafting: of `old`, as it is now. first: seed of the first candidate; candidate j has first + j.
        """
        plan, seeds = self.plan, range(first, first + self.plan.candidates)
        if not plan.drafted:
            drawn = self.draw(old, prompt, seeds, plan.steps)
            own = best_and_worst(drawn.rewards[0], plan.keep)
            path = None if drawn.path is None else drawn.path[own]
            kept = tuple(seeds[i] for i in own)
            return RolloutGroup(prompt, kept, drawn.latents[own], drawn.rewards[0, own], None, path)
        drafts = self.draw(drafting, prompt, seeds, plan.draft_steps).rewards[0]
        own = best_and_worst(drafts, plan.keep)
        kept = tuple(seeds[i] for i in own)
        drawn = self.draw(old, prompt, kept, plan.steps)
        return RolloutGroup(prompt, kept, drawn.latents, drawn.rewards[0], drafts[own], None)

    def draw(
        self,
        transformer: Sana,
        prompt: str,
        seeds: Sequence[int],
        steps: int,
        judges: Sequence[Reward] = (),
    ) -> DrawnImages:
        """Draw a prompt once for each seed, as the pipeline does, and judge the images.

        judges: further ones, whose scores stand behind the reward's.
        """
        pipe = TextToImage(transformer, self.codec, self.encoder, self.settings, memory="all")
        solver = self.solver(steps, pipe.spec.whole_times)
        latents, rewards, paths = [], [], []
        for start in range(0, len(seeds), self.plan.at_once):
            some = list(seeds[start : start + self.plan.at_once])
            request = check_request(
                pipe.spec,
                prompt,
                steps=steps,
                guidance=self.plan.guidance,
                num_images=len(some),
                seed=some[0],
                output="latent",
            )
            request = replace(request, seeds=some, solver=solver)
            path = []
            if self.learns_steps:
                path.append(torch.stack([request.cells.noise(seed)[0] for seed in some]))
            last = None
            for step in pipe.draw(request):
                last = step.latents
                if self.learns_steps:
                    path.append(last.cpu())
            assert last is not None
            images = pipe.decode(last).clamp(-1, 1).cpu()
            asked = [prompt] * len(some)
            rewards.append(torch.stack([scored(one, images, asked) for one in (self.reward, *judges)]))
            latents.append(last.cpu())
            if path:
                paths.append(torch.stack(path, 1))
        return DrawnImages(torch.cat(latents), torch.cat(rewards, 1), torch.cat(paths) if paths else None)


def even_times(steps: int) -> Tensor:
    """Return the published grid of rollouts: evenly from exactly 1 down to 0, S + 1, float64.

    >>> even_times(4)
    tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000], dtype=torch.float64)
    """
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def draft_correlation(
    rollouts: Rollouts, old: Sana, drafting: Sana, prompts: Sequence[str], first: int
) -> float:
    """Return how alike drafts and full images are ranked: the mean of Spearman's coefficient over prompts.

    All candidates of each prompt are drawn both ways, prompt p from seed first + p * candidates. Raises
    SettingsError where no prompt has a spread of rewards: there is nothing to rank.
    """
    plan, found = rollouts.plan, []
    for number, prompt in enumerate(prompts):
        start = first + number * plan.candidates
        seeds = range(start, start + plan.candidates)
        draft = rollouts.draw(drafting, prompt, seeds, plan.draft_steps).rewards[0]
        full = rollouts.draw(old, prompt, seeds, plan.steps).rewards[0]
        found.append(rank_correlation(draft, full))
    ranked = [one for one in found if one is not None]
    if not ranked:
        raise SettingsError(
            f"Each of {len(prompts)} prompts gave all its images the same reward, so there is nothing to "
            "learn from: choose harder prompts, or a reward that tells images apart."
        )
    return sum(ranked) / len(ranked)
