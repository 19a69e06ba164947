"""Every mixing of a seed with a step, an index or an epoch: which random numbers belong to what.

All are made on the CPU, so that a device changes nothing. The mixings are a contract: runs that are resumed
depend on the numbers that come out. Drawing mixes nothing: image i of seed s is drawn from seed s + i
(`pipelines/request.py`).
"""

from __future__ import annotations

import numpy as np
import torch

_WORD = 2**64 - 1


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the random numbers of a whole global batch: every rank draws all and keeps those of its part."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def class_seed(seed: int) -> int:
    """Return the seed of the images of a class, whose noise and times are others than a run's own."""
    return seed + 1


def further_seed(seed: int, which: int) -> int:
    """Return the seed of further draws for the same samples: another noise, another time. which: from 1."""
    return int(np.random.SeedSequence((seed, which)).generate_state(1, np.uint32)[0])


def rollout_seed(seed: int, step: int, group: int) -> int:
    """Return the seed of a prompt's first image in a step of a reinforcement; image j has that plus j."""
    return int(np.random.SeedSequence((seed, step, group)).generate_state(1, np.uint32)[0])


def sample_generator(seed: int, step: int, index: int) -> torch.Generator:
    """Return the random numbers of one sample of a batch, for what is too large to draw for all."""
    mixed = np.random.SeedSequence((seed, step, index)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))


def numpy_generator(seed: int, *places: int) -> np.random.Generator:
    """Return numpy's random numbers of a place: (step,), (step, index) or (index,)."""
    return np.random.default_rng((seed, *places))


def permutation(seed: int, epoch: int, which: int, length: int) -> np.ndarray:
    """Return the shuffle number `which` of an epoch."""
    # RandomState, not Generator: numpy promises that its numbers never change, so that a run can be resumed
    # with another version of numpy.
    return np.random.RandomState([seed, epoch, which]).permutation(length)


def uniform(*numbers: int) -> float:
    """Return a number in [0, 1) that depends on these alone and shows no pattern between neighbours.

    numbers: from 0 to 2**64 - 1. Source: the mixing function of SplitMix64 (Steele et al. 2014).
    """
    state = 0
    for number in numbers:
        state = (state + 0x9E3779B97F4A7C15 + number) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return (state >> 11) / 2**53
