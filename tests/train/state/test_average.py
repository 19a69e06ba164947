"""The moving average: whom it follows, and that measuring with it changes nothing."""

from __future__ import annotations

import torch
from torch import nn

from sanakit.train.state.average import Average


def model() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    made[2].requires_grad_(False)
    return made


def started(followed: nn.Module) -> Average:
    average = Average(followed)
    average.start()
    return average


def test_it_moves_by_one_minus_decay_towards_the_weights():
    followed = model()
    average = started(followed)
    before = followed[0].weight.detach().clone()
    with torch.no_grad():
        followed[0].weight += 1
    average.update(0.75)
    torch.testing.assert_close(average.trained()["0.weight"], before + 0.25)


def test_its_module_is_frozen_in_eval_mode_and_shares_the_average():
    followed = model().train()
    average = started(followed)
    made = average.module()
    assert not made.training
    assert followed.training
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert made[0].weight.data_ptr() == average.trained()["0.weight"].data_ptr()
    assert made[0].weight.data_ptr() != followed[0].weight.data_ptr()
    assert type(made[1]) is nn.BatchNorm1d


def test_what_is_not_trained_is_the_models_own():
    followed = model()
    average = started(followed)
    assert set(average.trained()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    followed[1](torch.randn(8, 3))  # moves its buffers
    made = average.module()
    assert torch.equal(made[1].running_mean, followed[1].running_mean)
    assert made[1].running_mean.any()
    assert made[2].weight.data_ptr() == followed[2].weight.data_ptr()
