"""Reinforce any SANA model by a reward: it draws prompts, its images are judged, and it learns from that.

An adapter (LoRA) learns, or all weights. Numbers of the published sizes are those of Sol-RL, in two stages:
drafts of 8 bits choose the seeds. Smaller models, as pocket, have settings for a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sanakit.errors import SettingsError
from sanakit.recipes.finetune import PUBLISHED_WIDTH
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.reinforce.rewards import open_rewards
from sanakit.train.reinforce.rollout import RolloutPlan
from sanakit.train.run import Run
from sanakit.train.runs.reinforce import aim_for, read_asked, reinforce_run, settings_for
from sanakit.weights import load_configs

StrPath = str | os.PathLike[str]

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
    config = settings_for(PUBLISHED if published else SMALL, steps, whole=whole, smoke=smoke)
    device = training_device()
    judges = [] if judge is None else [open_rewards([judge], device)]
    return reinforce_run(source, config, aim, read_asked(data), open_rewards(rewards, device), judges)
