"""`pocket-rl`: reinforce pocket by the judge of scenes, most of all where PocketEval is weakest.

These are two things, and two of different sizes; the rest is asked for now and then, so that it is kept. It
learns from combinations of training and is measured on PocketEval's, which it never is rewarded for; the
further judge is pocket-clip unless another one is named. It draws without guidance: half the work of pocket.
"""

from __future__ import annotations

import os
from pathlib import Path

from sanakit.errors import SettingsError
from sanakit.pocket.evaluate.judge import load_judge
from sanakit.pocket.evaluate.scene_reward import SceneReward
from sanakit.pocket.train.reinforce import asked_scenes, held_out_scenes
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.reinforce.rewards import open_rewards
from sanakit.train.reinforce.rollout import RolloutPlan
from sanakit.train.run import Run
from sanakit.train.runs.reinforce import RewardedPrompts, aim_for, reinforce_run, settings_for

REINFORCE = TrainConfig(
    steps=200,
    batch_size=1,  # that of the plan takes its place
    micro_batch=72,
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
# Rank correlation with full images, mean of five prompts: 0.66 for drafts of 4 steps, 0.86 of 6.
PLAN = RolloutPlan(
    prompts=6, candidates=24, keep=8, draft_steps=6, steps=10, grid="own", at_once=24, checked_prompts=6
)
KINDS = {"two": 0.4, "size": 0.4, "count": 0.05, "left": 0.05, "above": 0.05, "ground": 0.05}
WATCHED = {"two": 6, "size": 6, "count": 2, "left": 2, "above": 2, "ground": 2}
PROMPTS = 2000
WITHOUT_DATA = Path("data/pocket")  # the command's default, which is not read


def reinforce(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] = "pocket",
    judge: str = "pocket-clip",
    algorithm: str = "nft",
    whole: bool = False,
    rank: int | None = None,
    smoke: bool = False,
) -> Run:
    """An adapter for pocket, or with `whole` a model, that draws two things and their sizes more often."""
    if data != WITHOUT_DATA:
        raise SettingsError("pocket-rl makes its own prompts and reads no data: omit --data.")
    scenes, notes = load_judge()
    questions = asked_scenes(16 if smoke else PROMPTS, KINDS)
    watched = held_out_scenes(notes, {"two": 1, "size": 1} if smoke else WATCHED)
    aim = aim_for(PLAN, algorithm, whole=whole, rank=rank, smoke=smoke)
    config = settings_for(REINFORCE, steps, whole=whole, smoke=smoke)
    asked = RewardedPrompts(
        prompts=[one.prompt for one in questions], held_out=[one.prompt for one in watched]
    )
    reward = SceneReward(scenes, [*questions, *watched])
    return reinforce_run(source, config, aim, asked, reward, [open_rewards([judge], training_device())])
