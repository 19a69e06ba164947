"""`sana train reinforce`: a file or a model that draws, exact continuation, and what cannot be is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sanakit.adapters.read import AdapterFile
from sanakit.recipes import reinforce
from sanakit.weights import load_configs, load_settings
from tests.recipes.folders import Command

REWARD = """
import numpy as np
def red(images, prompts):
    return [np.asarray(image)[..., 0].mean() / 255 + 0 * len(p) for image, p in zip(images, prompts)]
def bright(images, prompts):
    return [np.asarray(image).mean() / 255 for image in images]
"""
PLAN = replace(
    reinforce.SMALL_PLAN, prompts=2, candidates=4, keep=2, draft_steps=1, steps=2, checked_prompts=0
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    every = {"log_every": 1, "checkpoint_every": 1, "evaluate_every": 4, "sheet_every": 4}
    monkeypatch.setattr(reinforce, "SMALL", replace(reinforce.SMALL, **every, learning_rate=0.05))
    monkeypatch.setattr(reinforce, "SMALL_PLAN", PLAN)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    (tmp_path / "judge.py").write_text(REWARD)
    path = tmp_path / "prompts.txt"
    path.write_text("# to learn from\na fox\na key\ntwo keys\na cat\na red hat\n")
    return path


def words(asked: Path, source: Path) -> tuple:
    judge = asked.parent / "judge.py"
    return (
        "train",
        "reinforce",
        "--data",
        asked,
        "--source",
        source,
        "--reward",
        f"{judge}:red",
        "--judge",
        (f"{judge}:bright"),
    )


def test_a_killed_run_ends_with_the_very_same_adapter(asked, tiny, tmp_path, command: Command) -> None:
    each = (*words(asked, tiny), "--rank", 2)
    command(*each, "--output", tmp_path / "whole", "--steps", 4)
    command(*each, "--output", tmp_path / "parts", "--steps", 2)
    command(*each, "--output", tmp_path / "parts", "--steps", 4, "--resume")
    one, other = (load_file(tmp_path / name / f"{name}.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(tensor.abs().max() > 0 for name, tensor in one.items() if "lora_B" in name)
    part = AdapterFile(tmp_path / "whole" / "whole.safetensors").read(load_configs(tiny)[0]).parts[0]
    assert (part.rank, part.alpha) == (2, 4)
    last = json.loads((tmp_path / "whole" / "log.jsonl").read_text().splitlines()[-1])
    names = {
        "reward",
        "spread",
        "zero_spread",
        "away_from_reference",
        "held_out_red",
        "held_out_bright_before",
    }
    assert names | {"diversity", "drift"} <= last.keys()
    choices = json.loads((tmp_path / "whole" / "config.json").read_text())["choices"]
    assert choices["algorithm"] == {"name": "NFT", "strength": 1.0, "clip": 5.0, "kl": 1e-4}
    assert (choices["reward"], choices["judges"]) == ("red", ["bright"])


def test_all_weights_make_a_model_that_draws_as_its_rollouts_did(
    asked, tiny, tmp_path, command: Command
) -> None:
    """Guidance above 1 on top of what was learned without it draws too far: the folder's own is 1."""
    command(*words(asked, tiny), "--whole", "--output", tmp_path / "run", "--steps", 1)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["settings"]["learning_rate"] == pytest.approx(0.005)  # a tenth of an adapter's
    before, after = load_settings(tiny), load_settings(tmp_path / "run" / "model")
    assert before.guidance > 1
    assert (after.guidance, after.steps) == (1.0, PLAN.steps)
    assert after.name == f"{before.name}-reinforced"
    command("generate", "a fox", "--model", tmp_path / "run" / "model", "-o", tmp_path / "a.png")


@pytest.mark.parametrize("algorithm", ["awm", "flow-grpo"])
def test_other_algorithms_are_trained_by_the_same_loop(
    asked, tiny, tmp_path, algorithm, command: Command
) -> None:
    out, _ = command(*words(asked, tiny), "--algorithm", algorithm, "--output", tmp_path / "run", "--smoke")
    assert "step 2 of 2" in out
    record = json.loads((tmp_path / "run" / "config.json").read_text())["choices"]
    assert record["algorithm"]["name"].lower() == algorithm.replace("flow-", "flow")
    assert (record["plan"]["draft_steps"] == 0) == (algorithm == "flow-grpo")


def test_another_learning_rate_takes_the_place_of_both(asked, tiny, tmp_path, command: Command) -> None:
    for name, more in (("adapter", ()), ("all", ("--whole",))):
        output = tmp_path / name
        command(*words(asked, tiny), *more, "--smoke", "--learning-rate", 0.01, "--output", output)
        assert json.loads((output / "config.json").read_text())["settings"]["learning_rate"] == 0.01


def test_networks_that_judge_are_where_the_model_is(asked, tiny, tmp_path, monkeypatch) -> None:
    found = []
    monkeypatch.setattr(reinforce, "training_device", lambda: torch.device("meta"))
    monkeypatch.setattr(reinforce, "open_rewards", lambda texts, device: found.append((*texts, device.type)))
    monkeypatch.setattr(reinforce, "reinforce_run", lambda *given: None)
    reinforce.reinforce(asked, tmp_path, source=tiny, rewards=["image-reward"], judge="pocket-clip")
    assert sorted(found) == [("image-reward", "meta"), ("pocket-clip", "meta")]


def test_what_cannot_be_is_told(asked, tiny, tmp_path, mistake) -> None:
    plain = ("train", "reinforce", "--data", asked, "--source", tiny, "--output", tmp_path / "run")
    reward = ("--reward", f"{asked.parent}/judge.py:red")
    assert "give --reward" in mistake(*plain)
    assert "no algorithm 'ppo'" in mistake(*plain, *reward, "--algorithm", "ppo")
    assert "omit one of the two" in mistake(*plain, *reward, "--whole", "--rank", 2)
    assert "takes no caption: omit --caption" in mistake(*plain, *reward, "--caption", "a fox")
    other = ("train", "finetune", "--data", asked, "--source", tiny, "--output", tmp_path / "run")
    assert "learns from no reward: omit --reward" in mistake(*other, *reward)
    assert "learns from no reward: omit --whole" in mistake(*other, "--whole")
