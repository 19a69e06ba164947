"""Arithmetic on the rewards of a prompt's images: which are kept, advantages, how alike rewards rank.

Shapes: G prompts, K images of a prompt, N candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-4  # beside the standard deviation, as published


def best_and_worst(rewards: Tensor, keep: int) -> list[int]:
    """Return the numbers of the best half and the worst half of `keep` images, ascending.

    rewards: N. keep: even, at most N. Of equal rewards the lower number counts as worse, so that no image is
    among the best and the worst.

    >>> best_and_worst(torch.tensor([0.5, 0.9, 0.1, 0.5]), 2), best_and_worst(torch.zeros(6), 4)
    ([1, 2], [0, 1, 4, 5])
    """
    if keep % 2 or not 2 <= keep <= len(rewards):
        raise ValueError(f"{keep} of {len(rewards)} images cannot be kept as best and worst halves.")
    order = torch.argsort(rewards.double(), stable=True).tolist()
    return sorted(order[: keep // 2] + order[-keep // 2 :])


def advantages(rewards: Tensor) -> Tensor:
    """Return by how much each image is better than its prompt's others: G K.

    rewards: G K, of the images that train. (reward - mean of its prompt) / (standard deviation of all +
    1e-4). An image of a prompt without spread has 0: it teaches nothing.
    """
    rewards = rewards.double()
    away = rewards - rewards.mean(1, keepdim=True)
    away[without_spread(rewards)] = 0  # exactly: a mean of equal numbers rounds
    return (away / (rewards.std(correction=0) + FLOOR)).float()


def without_spread(rewards: Tensor) -> Tensor:
    """Return which prompts gave all their images the same reward: G, bool. rewards: G K."""
    return rewards.amax(1) == rewards.amin(1)


def rank_correlation(one: Tensor, other: Tensor) -> float | None:
    """Return Spearman's rank correlation of two rewards of the same images, in [-1, 1].

    one, other: N. Equal rewards share the mean of their ranks. None: one of them has no spread.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    0.5
    """
    ranks = torch.stack([_ranks(one), _ranks(other)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    lengths = ranks.norm(dim=1)
    if not bool((lengths > 0).all()):
        return None
    return (ranks[0] @ ranks[1] / lengths.prod()).item()


def _ranks(values: Tensor) -> Tensor:
    """Return the ranks of N values from 0 on, float64; equal ones share their mean."""
    values = values.double()
    below = (values[None] < values[:, None]).sum(1).double()
    equal = (values[None] == values[:, None]).sum(1)
    return below + (equal.double() - 1) / 2
