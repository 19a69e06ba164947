"""The contrastive loss by hand, and an objective that learns coloured squares."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sanakit.models.clip import Clip, ClipConfig, TowerConfig
from sanakit.text.clip import ClipScorer, Preprocessing, train_clip_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.loop import train
from sanakit.train.objectives.contrastive import ContrastiveObjective, Pair, comparable, contrastive_loss
from sanakit.train.parts import Part, Share, split

E = math.e
COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "white": (240, 240, 240)}


def draw(random: np.random.Generator) -> Pair:
    """An image whose left and right half have colours; wrong: exchanged, or another left one."""
    left, right, other = random.permutation(list(COLOURS))[:3]
    picture = np.empty((16, 16, 3), np.uint8)
    picture[:, :8], picture[:, 8:] = COLOURS[left], COLOURS[right]
    return Pair(
        image=picture,
        caption=f"{left} left of {right}",
        wrong=(f"{right} left of {left}", f"{other} left of {right}"),
        things=frozenset({str(left), str(right)}),
        kind="halves",
    )


@pytest.fixture
def objective() -> ContrastiveObjective:
    tokenizer = train_clip_tokenizer([f"{a} left of {b}" for a in COLOURS for b in COLOURS] * 3, 1024)
    size = tokenizer.get_vocab_size()
    tower = TowerConfig(width=32, depth=2, heads=2, mlp_width=64, activation="gelu")
    config = ClipConfig(
        vision=tower,
        text=tower,
        image_size=16,
        patch_size=8,
        vocab_size=size,
        max_tokens=8,
        eos_token=size - 1,
        embed_width=16,
    )
    model = Clip(config)
    model.init_weights()
    preprocessing = Preprocessing(size=16, crop=(16, 16), mean=(0.5,) * 3, deviation=(0.5,) * 3)
    held_out = [draw(np.random.default_rng((9, i))) for i in range(24)]
    return ContrastiveObjective(ClipScorer(model, tokenizer, preprocessing), draw, held_out)


def test_the_loss_is_the_mean_of_both_choices_computed_by_hand():
    both = torch.eye(2)
    wrong = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    everything = torch.ones(2, 2, dtype=torch.bool)
    pictures = (math.log(E + 2) + math.log(1 + 2 * E)) / 2 - 1
    captions = math.log(E + 1) - 1
    loss = contrastive_loss(both, both, wrong, everything, 1.0)
    assert loss.item() == pytest.approx((pictures + captions) / 2, abs=1e-6)


def test_without_wrong_captions_it_is_the_published_loss():
    generator = torch.Generator().manual_seed(0)
    pictures, captions = torch.nn.functional.normalize(torch.randn(2, 5, 8, generator=generator), dim=-1)
    logits = 7.0 * pictures @ captions.T
    expected = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2
    loss = contrastive_loss(pictures, captions, torch.zeros(5, 0, 8), torch.ones(5, 5, dtype=torch.bool), 7.0)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_what_may_be_true_is_no_negative():
    both = torch.eye(2)
    allowed = torch.tensor([[True, False], [True, True]])  # caption 1 may be true of image 0
    loss = contrastive_loss(both, both, torch.zeros(2, 0, 2), allowed, 1.0)
    alone = math.log(E + 1) - 1
    pictures, captions = (0 + alone) / 2, (alone + 0) / 2
    assert loss.item() == pytest.approx((pictures + captions) / 2, abs=1e-6)


def test_a_caption_is_compared_with_pictures_that_lack_one_of_its_things():
    fox, dog, both = frozenset({"fox"}), frozenset({"dog"}), frozenset({"fox", "dog"})
    assert comparable([fox, dog, both, fox]).tolist() == [
        [True, True, True, False],
        [True, True, True, True],
        [False, False, True, False],
        [False, True, True, True],
    ]


def test_a_batch_does_not_depend_on_how_it_is_cut(objective):
    whole = objective.batch(3, Part(0, 8, 8))
    parts = [objective.batch(3, part) for part in split(8, Share(), at_once=4)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert [part.weight for part in parts] == [0.5, 0.5]
    width = parts[1].tokens.shape[1]
    assert torch.equal(parts[1].tokens[:4], whole.tokens[4:8, :width])
    assert torch.equal(parts[1].tokens[4:], whole.tokens[16:, :width])
    assert not torch.equal(objective.batch(4, Part(0, 8, 8)).pixels, whole.pixels)


def test_gradients_reach_every_parameter(objective):
    objective.loss(objective.batch(0, Part(0, 16, 16))).backward()
    # A key's bias shifts all scores of a query alike: softmax takes no notice of it.
    still = [
        name
        for name, parameter in objective.model.named_parameters()
        if "k_proj.bias" not in name and (parameter.grad is None or not parameter.grad.any())
    ]
    assert still == []


@pytest.mark.thorough
def test_it_learns_what_is_left_and_what_is_right(objective, tmp_path):
    before = objective.evaluate(objective.model)
    config = TrainConfig(steps=160, batch_size=32, learning_rate=2e-3, warmup_steps=10, ema_decay=0.9)
    config = replace(config, log_every=80, sheet_every=160, evaluate_every=160, checkpoint_every=160)
    *_, last = train(objective, config, tmp_path)
    assert before["right_halves"] < 0.9
    assert last.metrics["right_halves"] > 0.95
    assert last.metrics["top1"] > 0.9
    assert last.metrics["top5"] == 1.0
    assert (tmp_path / "sheets" / "0000160.png").is_file()
