"""Reinforcement in the loop: what a step is made of, that it learns, resumes exactly, and ends in time."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.seeds import rollout_seed
from sanakit.train.config import TrainConfig
from sanakit.train.loop import train
from sanakit.train.parts import Part, Share, split
from sanakit.train.reinforce.awm import AWM
from sanakit.train.reinforce.flow_grpo import FlowGRPO
from sanakit.train.reinforce.groups import advantages
from sanakit.train.reinforce.nft import NFT
from sanakit.train.reinforce.objective import published_decay
from sanakit.train.reinforce.watch import StopRule
from tests.train.reinforce.small import HELD_OUT, PLAN, PROMPTS, Redness, make

pytestmark = pytest.mark.usefixtures("no_tensorboard")

TIMES = 3  # of 4 steps, but the last
SAMPLES = 2 * 4 * TIMES
NOISY = replace(PLAN, draft_steps=0, candidates=4)
CONFIG = TrainConfig(
    steps=4,
    batch_size=SAMPLES,
    micro_batch=10,
    learning_rate=1e-2,
    warmup_steps=0,
    decay_fraction=0.0,
    weight_decay=0.0,
    log_every=1,
    evaluate_every=100,
    sheet_every=100,
    checkpoint_every=1,
)
WHOLE = Part(0, SAMPLES, SAMPLES)


def test_a_step_is_its_groups_images_at_the_grids_times_with_new_noise() -> None:
    objective = make(seed=5)
    objective.begin(0, [WHOLE])
    batch = objective.batch(0, WHOLE)
    assert objective.samples == SAMPLES == len(batch.visit.t)
    assert batch.visit.t.tolist() == [1.0, 0.75, 0.5] * 8
    groups = objective._groups
    assert [group.seeds[0] >= rollout_seed(5, 0, g) for g, group in enumerate(groups)] == [True, True]
    better = advantages(torch.stack([group.rewards for group in groups]))
    assert torch.equal(batch.visit.advantage, better.flatten().repeat_interleave(TIMES))
    clean = torch.cat([group.latents for group in groups]).repeat_interleave(TIMES, 0)
    assert torch.equal(batch.visit.clean, clean)
    noise = (batch.visit.sample - (1 - batch.visit.t.view(-1, 1, 1, 1)) * clean) / batch.visit.t.view(
        -1, 1, 1, 1
    )
    assert len({tuple(one.flatten().round(decimals=3).tolist()) for one in noise}) == SAMPLES
    drawn = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(groups[0].seeds[0]))
    assert not torch.allclose(noise[0], drawn, atol=1e-3)  # not that of the rollout


def test_parts_cut_anywhere_add_up_to_the_whole() -> None:
    objective = make()
    parts = split(SAMPLES, Share(), 7)
    objective.begin(0, parts)
    batches = [objective.batch(0, part) for part in parts]
    whole = objective.batch(0, WHOLE)
    assert torch.equal(torch.cat([batch.visit.sample for batch in batches]), whole.visit.sample)
    total = sum(objective.loss(batch) for batch in batches)
    torch.testing.assert_close(total, objective.loss(whole))


def test_its_loss_is_the_algorithms_at_three_policies() -> None:
    objective = make(algorithm=NFT(strength=0.5, kl=0.3))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in objective.model.named_parameters():
        if name.endswith("up"):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    objective.begin(0, [WHOLE])
    batch = objective.batch(0, WHOLE)
    own = objective.policies
    asked = (batch.visit.sample, batch.visit.t, batch.text, batch.mask)
    velocities = [one(*asked).float() for one in (own.learning, own.old, own.reference)]
    assert not any(torch.allclose(velocities[i], velocities[i - 1]) for i in range(3))
    wanted = objective.algorithm.errors(batch.visit, *velocities).mean()
    torch.testing.assert_close(objective.loss(batch), wanted)


@pytest.mark.parametrize("whole", [False, True])
def test_only_what_learns_has_a_gradient(whole: bool) -> None:
    objective = make(whole=whole)
    objective.begin(0, [WHOLE])
    objective.loss(objective.batch(0, WHOLE)).backward()
    part = objective.policies.learned
    for name, parameter in objective.model.named_parameters():
        assert (parameter.grad is not None) == name.startswith(f"{part}."), name
    assert all(p.grad is None for p in objective.policies.reference.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("algorithm", "plan", "whole"),
    [(NFT(), PLAN, False), (NFT(), PLAN, True), (AWM(), PLAN, False), (FlowGRPO(), NOISY, False)],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(algorithm, plan, whole: bool, tmp_path: Path) -> None:
    """Losses and rewards to the bit: the old policy, which lags behind, is kept."""
    lag = {"decay": lambda step: 0.5 * (step > 0), "whole": whole}
    straight = list(train(make(plan, algorithm, **lag), CONFIG, tmp_path / "a"))
    list(islice(train(make(plan, algorithm, **lag), CONFIG, tmp_path / "b"), 2))
    resumed = list(train(make(plan, algorithm, **lag), CONFIG, tmp_path / "b", resume=True))
    assert [p.step for p in resumed] == [3, 4]
    for one, other in zip(straight[2:], resumed, strict=True):
        assert (one.loss, one.grad_norm) == (other.loss, other.grad_norm)
        assert one.metrics["reward"] == other.metrics["reward"]
    logs = [(tmp_path / place / "log.jsonl").read_text().splitlines() for place in "ab"]
    assert [json.loads(line)["loss"] for line in logs[0]] == [json.loads(line)["loss"] for line in logs[1]]


def test_it_learns_what_is_rewarded(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=8, ema_decay=0.0, evaluate_every=8, learning_rate=5e-2, log_every=8)
    config = replace(config, checkpoint_every=8)
    for sign in (1.0, -1.0):
        (line,) = train(make(reward=Redness(sign=sign)), config, tmp_path / str(sign))
        assert line.metrics["held_out_red"] > line.metrics["held_out_red_before"] + 0.005


def test_the_old_policy_follows_before_rollouts_and_drafts_are_made_of_it() -> None:
    objective = make(decay=lambda step: 0.25)
    objective.begin(0, [WHOLE])
    part, old = objective.policies.learned, objective.policies.model["old"]
    for parameter in objective.model[part].parameters():
        parameter.data += 1
    before = {name: p.clone() for name, p in old.named_parameters()}
    objective.batch(0, WHOLE)
    assert all(torch.equal(p, before[name]) for name, p in old.named_parameters())  # not before the first
    first = objective._groups[0].rewards
    objective.batch(1, WHOLE)
    for name, p in old.named_parameters():
        wanted = 0.25 * before[name] + 0.75 * objective.model[part].get_parameter(name)
        torch.testing.assert_close(p, wanted.detach())
    assert not torch.allclose(first, objective._groups[0].rewards)


def test_each_epoch_draws_every_prompt_once_and_never_what_is_held_out() -> None:
    reward = Redness()
    objective = make(reward=reward)
    objective.begin(0, [WHOLE])
    objective.batch(0, WHOLE)
    asked = [objective._prompt(step, number) for step in range(5) for number in range(2)]
    assert {prompt for prompt, _ in reward.seen} == {*asked[:2]}
    assert [sorted(asked[:5]), sorted(asked[5:])] == [sorted(PROMPTS)] * 2
    assert asked[:5] != asked[5:]
    assert not {*asked} & {*HELD_OUT}


def test_drafts_that_rank_otherwise_are_refused_before_the_first_step() -> None:
    class Turned(Redness):
        def __call__(self, images, prompts):
            drafts = len(self.seen) % 12 < 6
            return super().__call__(images, prompts) * (1 if drafts else -1)

    checked = replace(PLAN, checked_prompts=1)
    objective = make(checked, reward=Turned())
    with pytest.raises(SettingsError, match=r"rank correlation is -0\.\d\d"):
        objective.begin(0, [WHOLE])
    objective.begin(3, [WHOLE])  # it was measured when the run began

    objective = make(replace(checked, least_correlation=-1))
    objective.begin(0, [WHOLE])
    objective.batch(0, WHOLE)
    assert -1 <= objective.figures()["draft_correlation"] <= 1
    assert "draft_correlation" not in objective.figures()


def test_prompts_whose_images_are_judged_alike_are_told_and_teach_nothing() -> None:
    objective = make(reward=Redness(sign=0.0), algorithm=NFT(kl=0.0))
    objective.begin(0, [WHOLE])
    loss = objective.loss(objective.batch(0, WHOLE))
    loss.backward()
    assert objective.figures()["zero_spread"] == 1
    assert all(p.grad.abs().max() < 1e-6 for p in objective.model.parameters() if p.grad is not None)


def test_the_published_decay_of_the_old_policy() -> None:
    assert [published_decay(step) for step in (0, 1, 100, 500, 10_000)] == [0, 0.001, 0.1, 0.5, 0.5]


def test_guided_steps_are_learned_as_they_were_drawn() -> None:
    """The old policy's guided velocity leads from each sample to the mean of the next."""
    objective = make(replace(NOISY, guidance=3.0), FlowGRPO(level=1e-3))
    objective.begin(0, [WHOLE])
    batch = objective.batch(0, WHOLE)
    velocity = objective._velocity(objective.policies.old, batch)
    assert batch.visit.after is not None
    step = (batch.visit.after - batch.visit.t).view(-1, 1, 1, 1)
    torch.testing.assert_close(
        batch.visit.sample + step * velocity, batch.visit.next_sample, rtol=0, atol=0.01
    )


def test_a_judge_that_falls_ends_the_training_and_a_resumed_run_stays_ended(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, evaluate_every=1, learning_rate=5e-2, ema_decay=0.0)
    against = {"judges": [Redness("green", sign=-1.0)], "rule": StopRule(fall=0.01, patience=2)}
    lines = list(train(make(**against), config, tmp_path))
    assert lines[-1].step < 40
    assert "ends early" in lines[-1].notes[-1]
    assert "green fell" in lines[-1].notes[-1]
    assert list(train(make(**against), config, tmp_path, resume=True)) == []


def test_groups_are_not_cut_by_processes_and_prompts_must_do() -> None:
    objective = make()
    with pytest.raises(SettingsError, match="cannot be cut"):
        objective.begin(0, [Part(0, 8, SAMPLES)])
    with pytest.raises(SettingsError, match="cannot be cut"):
        objective.begin(0, [Part(0, 8, 8)])
    objective.begin(0, split(SAMPLES, Share(1, 2)))
    with pytest.raises(SettingsError, match="A step draws 6 prompts"):
        make(replace(PLAN, prompts=6))


def test_a_sheet_shows_the_reference_above_and_the_policy_below() -> None:
    objective = make()
    sheet = objective.sheet(objective.model)
    assert sheet.size == (2 * 144, 2 * 144)
    assert sheet.crop((0, 0, 288, 144)).tobytes() == sheet.crop((0, 144, 288, 288)).tobytes()
