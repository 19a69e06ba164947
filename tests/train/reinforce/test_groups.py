"""Rewards of a prompt's images: which are kept, advantages, ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from sanakit.train.reinforce.groups import advantages, best_and_worst, rank_correlation, without_spread


def test_the_best_and_the_worst_are_kept() -> None:
    rewards = torch.randn(96)
    kept = best_and_worst(rewards, 24)
    order = rewards.sort().indices.tolist()
    assert kept == sorted({*order[:12], *order[-12:]})


@pytest.mark.parametrize("keep", [2, 8, 10])
def test_no_image_is_both_best_and_worst_where_all_are_equal(keep: int) -> None:
    """The two largest and the two smallest of equal rewards are the same ones, by topk."""
    assert len(set(best_and_worst(torch.ones(10), keep))) == keep


@pytest.mark.parametrize("keep", [0, 1, 3, 12])
def test_halves_that_do_not_exist_are_our_own_mistake(keep: int) -> None:
    with pytest.raises(ValueError, match="cannot be kept"):
        best_and_worst(torch.ones(10), keep)


def test_advantages_are_the_published_ones() -> None:
    """From the prompt's own mean, over the spread of all rewards: not that of the prompt."""
    rewards = torch.tensor([[0.0, 1.0, 0.5, 0.5], [3.0, 5.0, 3.0, 5.0]])
    table = rewards.double().numpy()
    wanted = (table - table.mean(1, keepdims=True)) / (np.std(table) + 1e-4)
    np.testing.assert_allclose(advantages(rewards).numpy(), wanted, rtol=1e-6)
    assert abs(wanted[1]).max() < 1  # with its own spread it would be 1


def test_a_prompt_without_spread_teaches_nothing_and_is_told() -> None:
    rewards = torch.tensor([[0.1] * 3, [0.0, 1.0, 0.5]])
    assert advantages(rewards)[0].tolist() == [0.0, 0.0, 0.0]
    assert without_spread(rewards).tolist() == [True, False]
    assert advantages(torch.full((2, 3), 0.7)).abs().max() == 0  # and no division by nothing


def test_rank_correlation_is_spearmans_with_ties() -> None:
    one = torch.tensor([0.5, 0.5, 1.0, 0.0, 0.25, 1.0])
    other = torch.tensor([0.1, 0.2, 0.2, 0.0, 0.9, 0.7])
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic, rel=1e-12)
    assert rank_correlation(one, one.exp()) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)


def test_rewards_without_spread_have_no_ranks() -> None:
    assert rank_correlation(torch.ones(4), torch.arange(4.0)) is None
    assert not math.isnan(rank_correlation(torch.arange(4.0), torch.arange(4.0)) or math.nan)
