"""Rollouts: the pipeline's own images, in two stages from the same seeds, and drafts in few bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.flow.dpm import FlowDPM
from sanakit.flow.euler import Euler
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.quant.plans import PLANS
from sanakit.quant.quantize import quantize
from sanakit.train.reinforce.flow_grpo import FlowGRPO
from sanakit.train.reinforce.groups import best_and_worst
from sanakit.train.reinforce.nft import NFT
from sanakit.train.reinforce.policies import sharing
from sanakit.train.reinforce.rollout import RolloutPlan, Rollouts, draft_correlation, even_times
from tests.train.reinforce.small import PLAN, SETTINGS, Redness, parts

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # batches of other sizes round otherwise


def made(plan: RolloutPlan = PLAN, reward: Redness | None = None, algorithm=None):
    transformer, codec, encoder = parts()
    transformer = transformer.eval().requires_grad_(False)
    rollouts = Rollouts(codec, encoder, SETTINGS, plan, algorithm or NFT(), reward or Redness())
    return rollouts, transformer, TextToImage(transformer, codec, encoder, SETTINGS)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_on_its_own_grid_an_image_is_the_pipelines_of_its_seed(guidance: float) -> None:
    rollouts, transformer, pipe = made(replace(PLAN, grid="own", guidance=guidance))
    drawn = rollouts.draw(transformer, "a fox", [7, 3, 11, 5, 9], 4)  # in batches of 4 and 1
    for latents, reward, seed in zip(drawn.latents, drawn.rewards[0], (7, 3, 11, 5, 9), strict=True):
        alone = pipe("a fox", seed=seed, steps=4, guidance=guidance, output="latent").images
        torch.testing.assert_close(latents[None], alone, **CLOSE)
        image = pipe("a fox", seed=seed, steps=4, guidance=guidance, output="pt").images
        torch.testing.assert_close(reward, image[0, 0].mean(), **CLOSE)


def test_the_published_grid_is_even_without_shift_and_euler() -> None:
    rollouts, transformer, pipe = made()
    solver = rollouts.solver(4)
    assert isinstance(solver, Euler)
    assert solver.times.tolist() == [1, 0.75, 0.5, 0.25, 0]
    (drawn,) = rollouts.draw(transformer, "a fox", [3], 4).latents
    noise = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(3))
    x = noise[None]
    context = transformer.prepare(pipe.text_encoder.encode(["a fox"], []))
    for t in (1.0, 0.75, 0.5, 0.25):
        x = x - 0.25 * transformer.velocity(x, t, context)
    torch.testing.assert_close(drawn[None], x, **CLOSE)
    assert isinstance(made(replace(PLAN, grid="own"))[0].solver(4), FlowDPM)


def test_two_stages_keep_the_best_and_worst_drafts_and_draw_their_seeds_in_full() -> None:
    reward = Redness()
    rollouts, transformer, _ = made(reward=reward)
    drafting = sharing(transformer)
    quantize(drafting, PLANS["int8-weight"])
    group = rollouts.group(transformer, drafting, "a fox", 100)
    assert len(reward.seen) == 6 + 4

    drafts = rollouts.draw(drafting, "a fox", range(100, 106), PLAN.draft_steps).rewards[0]
    own = best_and_worst(drafts, 4)
    assert group.seeds == tuple(100 + i for i in own)
    full = rollouts.draw(transformer, "a fox", group.seeds, PLAN.steps)
    torch.testing.assert_close(group.latents, full.latents, **CLOSE)
    torch.testing.assert_close(group.rewards, full.rewards[0], **CLOSE)  # not those of the drafts
    assert group.drafts is not None
    torch.testing.assert_close(group.drafts, drafts[own], **CLOSE)
    assert not torch.allclose(group.rewards, group.drafts, rtol=1e-3)


def test_without_drafts_the_best_and_worst_of_all_are_kept() -> None:
    rollouts, transformer, _ = made(replace(PLAN, draft_steps=0))
    group = rollouts.group(transformer, transformer, "a fox", 50)
    rewards = rollouts.draw(transformer, "a fox", range(50, 56), 4).rewards[0]
    own = best_and_worst(rewards, 4)
    assert group.seeds == tuple(50 + i for i in own)
    torch.testing.assert_close(group.rewards, rewards[own], **CLOSE)
    assert group.drafts is None


def test_ranks_of_drafts_are_compared_with_those_of_full_images() -> None:
    rollouts, transformer, _ = made(replace(PLAN, draft_steps=4))  # as many steps: the same images
    assert draft_correlation(rollouts, transformer, transformer, ["a fox", "a cat"], 0) == pytest.approx(1)

    class Turned(Redness):  # every second call, which is that of the full images
        def __call__(self, images, prompts):
            seen = len(self.seen)
            return super().__call__(images, prompts) * (1 if seen % 12 < 6 else -1)

    rollouts.reward = Turned()
    assert draft_correlation(rollouts, transformer, transformer, ["a fox", "a cat"], 0) == pytest.approx(-1)


def test_rewards_without_any_spread_are_refused() -> None:
    rollouts, transformer, _ = made(reward=Redness(sign=0.0))
    with pytest.raises(SettingsError, match="nothing to learn from"):
        draft_correlation(rollouts, transformer, transformer, ["a fox"], 0)


def test_steps_of_stochastic_rollouts_are_kept_whole() -> None:
    plan = replace(PLAN, draft_steps=0, candidates=4)
    rollouts, transformer, _ = made(plan, algorithm=FlowGRPO(level=0.5))
    group = rollouts.group(transformer, transformer, "a fox", 8)
    assert group.path is not None
    assert group.path.shape == (4, 5, 4, 2, 2)
    torch.testing.assert_close(group.path[:, -1], group.latents, rtol=0, atol=0)
    noise = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(group.path[1, 0], noise, rtol=0, atol=0)
    again = rollouts.draw(transformer, "a fox", [9], 4)
    torch.testing.assert_close(again.latents[0], group.latents[1], **CLOSE)  # noise is the seed's, too


def test_on_its_own_grid_a_noisy_rollout_begins_at_pure_noise_with_the_models_shift() -> None:
    rollouts, _, _ = made(replace(PLAN, draft_steps=0, grid="own"), algorithm=FlowGRPO())
    assert rollouts.solver(2).times.tolist() == [1, 0.75, 0]


def test_drafts_of_noisy_rollouts_are_refused() -> None:
    with pytest.raises(SettingsError, match="drafts choose nothing"):
        made(algorithm=FlowGRPO())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"keep": 3}, "even number"),
        ({"keep": 8}, "as many candidates"),
        ({"keep": 6}, "choose nothing"),
        ({"candidates": 1000}, "up to 256"),
        ({"draft_plan": "int3"}, "no quantisation plan"),
        ({"draft_steps": -1}, "draft_steps"),
        ({"steps": 0}, "steps"),
        ({"guidance": -1.0}, "guidance"),
        ({"grid": "odd"}, "grid"),
        ({"prompts": 0}, "prompts"),
        ({"at_once": 0}, "at_once"),
        ({"least_correlation": 2.0}, "least_correlation"),
    ],
)
def test_plans_out_of_range_are_refused(changed, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        replace(PLAN, **changed)


def test_the_published_plan_is_sol_rls() -> None:
    plan = RolloutPlan()
    assert (plan.prompts, plan.candidates, plan.keep, plan.draft_steps, plan.steps) == (48, 96, 24, 6, 10)
    assert plan.guidance == 1.0
    assert even_times(10)[:9].tolist() == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
