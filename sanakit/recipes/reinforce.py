"""Reinforce any SANA model by a reward: it draws prompts, its images are judged, and it learns from that.

An adapter (LoRA) learns, or all weights. Numbers of the published sizes are those of Sol-RL, in two stages:
drafts of 8 bits choose the seeds. Smaller models, as pocket, have settings for a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sanakit.adapters.fresh import AdapterSize
from sanakit.errors import SettingsError
from sanakit.recipes.finetune import PUBLISHED_WIDTH
from sanakit.train.config import TrainConfig
from sanakit.train.reinforce.algorithm import Algorithm
from sanakit.train.reinforce.awm import AWM
from sanakit.train.reinforce.flow_grpo import FlowGRPO
from sanakit.train.reinforce.nft import NFT
from sanakit.train.reinforce.rewards import open_rewards
from sanakit.train.reinforce.rollout import RolloutPlan
from sanakit.train.run import Run
from sanakit.train.runs.reinforce import ReinforceAim, read_asked, reinforce_run
from sanakit.weights import load_configs

StrPath = str | os.PathLike[str]

ALGORITHMS: dict[str, Algorithm] = {"nft": NFT(), "awm": AWM(), "flow-grpo": FlowGRPO()}
LAYERS = "attention"  # as published: queries, keys, values and outputs
RANK = 32
ALPHA = 2  # over the rank
WHOLE_RATE = 0.1  # times the learning rate, where all weights learn

# The rate stays: a run that is ended early is the beginning of a longer one.
PUBLISHED = TrainConfig(
    steps=300,
    batch_size=1,  # that of the plan takes its place
    micro_batch=18,
    learning_rate=3e-4,
    warmup_steps=0,
    decay_fraction=0.0,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    ema_decay=0.9,
    bf16=True,
    log_every=1,
    evaluate_every=10,
    sheet_every=10,
    checkpoint_every=5,
)
SMALL = replace(PUBLISHED, steps=200, micro_batch=72)
PLAN = RolloutPlan()
SMALL_PLAN = RolloutPlan(
    prompts=6, candidates=24, keep=8, draft_steps=6, steps=10, grid="own", at_once=24, checked_prompts=6
)


def reinforce(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    rewards: Sequence[str] = (),
    judge: str | None = None,
    algorithm: str = "nft",
    whole: bool = False,
    rank: int | None = None,
    learning_rate: float | None = None,
    smoke: bool = False,
) -> Run:
    """An adapter for `source`, or with `whole` a model, whose drawings of `data`'s prompts a reward likes."""
    if not rewards:
        raise SettingsError(
            "reinforce learns from a reward, and none was named: give --reward, such as pocket-clip, "
            "image-reward, MODULE:FUNCTION or an address."
        )
    published = load_configs(source)[0].width >= PUBLISHED_WIDTH
    aim = aim_for(PLAN if published else SMALL_PLAN, algorithm, whole=whole, rank=rank, smoke=smoke)
    config = settings_for(PUBLISHED if published else SMALL, steps, learning_rate, whole=whole, smoke=smoke)
    judges = [] if judge is None else [open_rewards([judge])]
    return reinforce_run(source, config, aim, read_asked(data), open_rewards(rewards), judges)


def aim_for(plan: RolloutPlan, algorithm: str, *, whole: bool, rank: int | None, smoke: bool) -> ReinforceAim:
    """Return what is trained, and how it draws. algorithm: of ALGORITHMS. Raises SettingsError."""
    if algorithm not in ALGORITHMS:
        raise SettingsError(f"There is no algorithm {algorithm!r}: choose one of {', '.join(ALGORITHMS)}.")
    if whole and rank is not None:
        raise SettingsError(
            "All weights learn (--whole), and no adapter that has a rank: omit one of the two."
        )
    if algorithm == "flow-grpo":  # drafts say nothing about rollouts with noise
        plan = replace(plan, candidates=plan.keep, draft_steps=0)
    if smoke:
        drafts = min(1, plan.draft_steps)
        small = {"prompts": 1, "candidates": 4 if drafts else 2, "keep": 2, "checked_prompts": 0}
        plan = replace(plan, steps=2, draft_steps=drafts, **small)
    rank = RANK if rank is None else rank
    size = None if whole else AdapterSize(layers=LAYERS, rank=rank, alpha=ALPHA * rank)
    return ReinforceAim(plan=plan, algorithm=ALGORITHMS[algorithm], size=size, each=2 if smoke else 4)


def settings_for(
    config: TrainConfig, steps: int | None, learning_rate: float | None, *, whole: bool, smoke: bool
) -> TrainConfig:
    """Return the settings of the loop; all weights learn at a tenth of an adapter's rate."""
    if learning_rate is None:
        learning_rate = config.learning_rate * (WHOLE_RATE if whole else 1)
    config = replace(config, learning_rate=learning_rate)
    return replace(config.lasting(steps, smoke=smoke), micro_batch=config.micro_batch)
