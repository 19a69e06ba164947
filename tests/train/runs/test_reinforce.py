"""Prompts of a reinforcement, what its result draws like, and what cannot be reinforced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.errors import DataError
from sanakit.train.reinforce.rollout import RolloutPlan
from sanakit.train.runs.reinforce import RewardedPrompts, as_drawn, read_asked
from sanakit.weights.settings import ModelSettings

SETTINGS = ModelSettings(name="fox", guidance=4.5, flow_shift=3.0, native_flow_shift=4.0, guidance_kind="apg")


def test_some_prompts_are_held_out_spread_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(f"thing {i}" for i in range(200)))
    asked = read_asked(tmp_path / "p.txt", 10)
    assert asked.held_out == [f"thing {i}" for i in range(0, 200, 20)]
    assert len(asked.prompts) == 190
    assert not {*asked.prompts} & {*asked.held_out}
    (tmp_path / "few.txt").write_text("a\nb\nc\n")
    assert len(read_asked(tmp_path / "few.txt").held_out) == 1


def test_prompts_that_come_again_and_unused_columns_are_told(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "tag": 1}\n{"prompt": "b"}\n{"prompt": "a"}\n')
    asked = read_asked(path)
    assert sorted([*asked.prompts, *asked.held_out]) == ["a", "b"]
    assert "tag of its rows" in asked.notes[0]
    assert "1 prompt that came again is left out" in asked.notes[1]


def test_one_prompt_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a fox\n")
    with pytest.raises(DataError, match="two at least"):
        read_asked(tmp_path / "p.txt")


def test_prompts_are_known_by_a_fingerprint_of_which_is_which() -> None:
    one = RewardedPrompts(prompts=["a", "b"], held_out=["c"])
    assert one.fingerprint == replace(one, place="elsewhere").fingerprint
    assert one.fingerprint != RewardedPrompts(prompts=["a"], held_out=["b", "c"]).fingerprint


def test_a_result_draws_as_its_rollouts() -> None:
    drawn = as_drawn(SETTINGS, RolloutPlan(steps=8))
    assert (drawn.solver, drawn.flow_shift, drawn.native_flow_shift) == ("euler", 1.0, None)
    assert (drawn.guidance, drawn.guidance_kind, drawn.steps) == (1.0, "cfg", 8)
    own = as_drawn(SETTINGS, RolloutPlan(grid="own", guidance=2.0))
    assert (own.solver, own.flow_shift, own.guidance) == ("dpm", 3.0, 2.0)
    assert as_drawn(own, RolloutPlan()).name == "fox-reinforced"
