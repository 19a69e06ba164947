"""Prompts of a reinforcement: of the kinds asked for, none twice, and none that PocketEval asks for."""

from __future__ import annotations

from collections import Counter

import pytest

from sanakit.errors import SettingsError
from sanakit.pocket.evaluate.judge import load_judge
from sanakit.pocket.recipes.reinforce import KINDS, WATCHED
from sanakit.pocket.train.reinforce import asked_scenes, held_out_scenes


def test_questions_are_of_their_kinds_and_different() -> None:
    asked = asked_scenes(400, KINDS)
    assert len({one.prompt for one in asked}) == 400
    counts = Counter(one.kind for one in asked)
    assert counts.keys() == KINDS.keys()
    assert 0.3 < counts["two"] / 400 < 0.5
    for one in asked:
        assert len(one.concepts) == {"ground": 1, "count": len(one.concepts)}.get(one.kind, 2)
        assert (one.ground == "white") == ("background" not in one.prompt)
    assert asked_scenes(400, KINDS) == asked
    assert asked_scenes(400, KINDS, seed=1) != asked


def test_no_combination_of_pocket_eval_is_trained_on() -> None:
    _, notes = load_judge()
    asked = asked_scenes(500, {"two": 0.5, "size": 0.5})
    evaluated = {frozenset(row["concepts"]) for row in notes["questions"] if row["kind"] in ("two", "size")}
    assert not {frozenset(one.concepts) for one in asked} & evaluated


def test_the_judge_knows_all_things_that_are_asked_for() -> None:
    judge, _ = load_judge()
    assert {name for one in asked_scenes(500, KINDS) for name in one.concepts} <= {*judge.concepts}


def test_held_out_questions_are_pocket_evals_own() -> None:
    _, notes = load_judge()
    watched = held_out_scenes(notes, WATCHED)
    assert Counter(one.kind for one in watched) == WATCHED
    assert {one.prompt for one in watched} <= {row["prompt"] for row in notes["questions"]}


@pytest.mark.parametrize("kind", ["object", "silhouette", "three"])
def test_other_kinds_are_refused(kind: str) -> None:
    with pytest.raises(SettingsError, match=f"kind '{kind}'"):
        asked_scenes(1, {kind: 1.0})
