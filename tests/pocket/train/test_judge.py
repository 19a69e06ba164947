from __future__ import annotations

import numpy as np
import pytest
import torch

from sanakit.pocket.data import scenes
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.evaluate.judge import CELL, SceneJudge
from sanakit.pocket.evaluate.pocket_eval import Question
from sanakit.pocket.train import judge as training
from sanakit.pocket.train.judge import JudgeObjective, ask
from sanakit.train.parts import Part

THINGS = {"red apple": (200, 0, 0), "fox": (0, 0, 0), "key": (0, 200, 0), "tent": (0, 0, 200)}


@pytest.fixture(scope="module")
def pocket(discs) -> PocketImages:
    return discs(THINGS, 60)


@pytest.fixture
def objective(pocket: PocketImages, monkeypatch: pytest.MonkeyPatch) -> JudgeObjective:
    monkeypatch.setattr(training, "QUESTIONS", 4)
    monkeypatch.setattr(scenes, "HELD_OUT_ONE_IN", 2)  # of so few things none might be held out
    torch.manual_seed(0)
    return JudgeObjective(SceneJudge(list(THINGS)), pocket)


def test_labels_lie_on_the_things_wherever_a_picture_was_moved(objective: JudgeObjective, monkeypatch):
    # without wear, and on white only, the colour in the middle of a labelled cell says which thing it is
    monkeypatch.setattr(training, "_worn", lambda picture, generator: picture)
    monkeypatch.setattr(training, "SINGLE", 1.0)
    batch = objective.batch(3, Part(0, 12, 12))
    for picture, labels, sizes in zip(batch.images, batch.labels, batch.sizes, strict=True):
        named = labels.nonzero()
        assert len(named) >= 4
        for row, column in named.tolist():
            seen = (picture[:, int((row + 0.5) * CELL / 2), int((column + 0.5) * CELL / 2)] + 1) * 127.5
            colour = torch.tensor(THINGS[objective.judge.concepts[labels[row, column] - 1]])
            if (colour - seen).abs().max() >= 30:  # the disc is smaller than the reach of the largest things
                middle = named.float().mean(0)
                assert (torch.tensor([row, column]) - middle).norm() > 1
            assert 0.7 < sizes[row, column] < 1.2  # log2(256 / 128), scaled by up to 0.85 and 1.1


def test_a_batch_is_the_same_in_parts(objective: JudgeObjective):
    whole = objective.batch(2, Part(0, 6, 6))
    halves = [objective.batch(2, Part(0, 3, 6)), objective.batch(2, Part(3, 6, 6))]
    assert torch.equal(whole.images, torch.cat([half.images for half in halves]))
    total = sum(objective.loss(half) for half in halves)
    torch.testing.assert_close(objective.loss(whole), total, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
def test_the_judge_learns_to_name_things(objective: JudgeObjective):
    optimizer = torch.optim.AdamW(objective.judge.parameters(), lr=2e-3)
    losses = []
    for step in range(30):
        loss = objective.loss(objective.batch(step, Part(0, 8, 8)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_questions_are_answered_by_the_pictures_that_come_with_them(objective: JudgeObjective, pocket):
    questions, answers = ask(pocket)
    assert {question.kind for question in questions} == set(objective.evaluate(objective.judge)) - {"all"}
    count = next(i for i, question in enumerate(questions) if question.kind == "count")
    assert isinstance(questions[count], Question)
    shown = np.abs(answers[count].astype(int) - answers[count][0, 0]).sum(-1) > 0
    disc = np.pi * 30**2  # at half size
    assert round(shown.sum() / disc) == len(questions[count].concepts)
