"""`sana train pocket-rl`: what it trains on what, without a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.errors import SettingsError
from sanakit.pocket.evaluate.judge import load_judge
from sanakit.pocket.evaluate.scene_reward import SceneReward
from sanakit.pocket.recipes import RECIPES
from sanakit.pocket.recipes.reinforce import WATCHED, WITHOUT_DATA, reinforce
from sanakit.train.reinforce.objective import ReinforceObjective
from sanakit.train.run import run_recipe


def test_it_learns_from_scenes_and_is_measured_on_pocket_evals_by_another_judge_too(tmp_path: Path) -> None:
    run = reinforce(WITHOUT_DATA, tmp_path, 7)
    objective = run.objective
    assert isinstance(objective, ReinforceObjective)
    assert isinstance(objective.rollouts.reward, SceneReward)
    assert objective.watch.names == ["scenes", "pocket-clip"]
    _, notes = load_judge()
    assert {*objective.watch.prompts} <= {row["prompt"] for row in notes["questions"]}
    assert len(objective.watch.prompts) == sum(WATCHED.values())
    assert not {*objective.watch.prompts} & {*objective.prompts}
    assert run.config.batch_size == objective.samples == 6 * 8 * 9
    assert (run.config.steps, run.config.warmup_steps) == (7, 0)
    assert any("draw with these" in note for note in run.notes)


def test_its_reward_is_not_another(tmp_path: Path) -> None:
    asked = {"data": WITHOUT_DATA, "output": tmp_path / "run", "more": {"rewards": ("image-reward",)}}
    with pytest.raises(SettingsError, match="has a reward of its own: omit --reward"):
        next(run_recipe("pocket-rl", RECIPES, **asked))  # pyright: ignore[reportArgumentType]


def test_a_data_set_is_refused_as_it_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="omit --data"):
        reinforce(tmp_path, tmp_path)
