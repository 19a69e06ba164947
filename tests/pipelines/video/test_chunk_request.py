"""Checks of calls with a causal model, without weights."""

from __future__ import annotations

from typing import Any

import pytest

from sanakit.errors import SettingsError
from sanakit.pipelines.video.chunk_request import check_chunks, check_distilled, joined, split_prompt
from sanakit.weights.video.settings import ChunkSettings

UNSET: dict[str, Any] = dict.fromkeys(("negative_prompt", "guidance", "guidance_kind", "steps", "solver"))
PLAN: dict[str, Any] = {"latents": 5, "motion": 30, "dialect": "diffusers", "guided": False}
PLAN["prompt_weights"] = False
SHORT = ChunkSettings(length=2)


def test_the_prompts_of_chunks_stand_in_one_text_and_come_out_again() -> None:
    assert split_prompt(joined(["a fox", "it jumps"])) == ["a fox", "it jumps"]
    assert split_prompt(joined(" a fox")) == [" a fox"], "a prompt alone stays as it was typed"
    with pytest.raises(SettingsError, match="one or more"):
        joined([])


def test_every_chunks_prompt_has_the_motion_score_and_its_weights() -> None:
    settings: dict[str, Any] = PLAN | {"prompt_weights": True}
    plan = check_chunks(SHORT, ["a (red:1.5) fox <split> it jumps", "a cat"], **settings)
    texts = [[part.text for part in parts] for parts in plan.prompts]
    assert texts == [
        ["a red fox motion score: 30.", "it jumps motion score: 30."],
        ["a cat motion score: 30."],
    ]
    assert [bool(part.weights) for part in plan.prompts[0]] == [True, False]
    assert (plan.length, plan.count) == (2, 2)


def test_padding_a_negative_prompt_for_several_prompts_is_refused() -> None:
    settings: dict[str, Any] = PLAN | {"dialect": "native", "guided": True}
    assert check_chunks(SHORT, ["a fox"], **settings).count == 2
    with pytest.raises(SettingsError, match="one prompt for all chunks"):
        check_chunks(SHORT, ["a fox <split> it jumps"], **settings)


def test_a_distilled_model_takes_its_own_settings() -> None:
    own: dict[str, Any] = {
        "negative_prompt": "",
        "guidance": 1.0,
        "guidance_kind": "cfg",
        "steps": 4,
        "solver": "few-step",
    }
    for given in (UNSET, own):
        few = check_distilled("long", ChunkSettings(), **given)
        assert few.model_times == (1.0, 0.96, 0.889, 0.727, 0.0)
    with pytest.raises(SettingsError, match="long is a distilled model, which takes no negative prompt"):
        check_distilled("long", ChunkSettings(), **UNSET | {"negative_prompt": ["", "a table"]})  # pyright: ignore
