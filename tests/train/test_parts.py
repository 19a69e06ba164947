"""A global batch is cut without loss, and what is drawn does not depend on the cuts."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.seeds import step_generator
from sanakit.train.parts import Part, Share, sample_noise, split


@pytest.mark.parametrize("total", [3, 8, 17, 96])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("at_once", [None, 1, 3, 1000])
def test_parts_of_all_ranks_are_the_batch_each_sample_once(total, world, at_once):
    cuts = [split(total, Share(rank, world), at_once) for rank in range(world)]
    samples = [i for parts in cuts for part in parts for i in range(part.start, part.stop)]
    assert samples == list(range(total))
    assert sum(part.weight for parts in cuts for part in parts) == pytest.approx(1)
    assert len({len(parts) for parts in cuts}) == 1  # ranks exchange gradients equally often
    assert min(len(part) for parts in cuts for part in parts) >= 1
    assert max(len(part) for parts in cuts for part in parts) <= (at_once or total) + (at_once == 1)


@pytest.mark.parametrize(("total", "world", "at_once"), [(64, 1, 16), (64, 2, 8), (48, 2, 7)])
def test_no_part_is_larger_than_asked(total, world, at_once):
    assert max(map(len, split(total, Share(0, world), at_once))) <= at_once


def test_fewer_samples_than_processes_are_refused():
    with pytest.raises(SettingsError, match="2 cannot be split over 3"):
        split(2, Share(0, 3))


def test_a_part_of_a_smaller_batch_covers_the_same_share():
    parts = split(16, Share(0, 1), 3)
    smaller = [part.of(4) for part in parts]
    assert [i for part in smaller for i in range(part.start, part.stop)] == [0, 1, 2, 3]


def test_noise_of_a_sample_does_not_depend_on_the_part_it_comes_in():
    whole = sample_noise(3, 5, Part(0, 8, 8), (2, 3))
    parts = [sample_noise(3, 5, part, (2, 3)) for part in split(8, Share(0, 1), 3)]
    assert torch.equal(torch.cat(parts), whole)
    assert len({row.flatten()[0].item() for row in whole}) == 8


@pytest.mark.parametrize(("seed", "step"), [(3, 6), (4, 5)])
def test_noise_differs_by_seed_and_step(seed, step):
    part = Part(0, 4, 4)
    assert not torch.equal(sample_noise(3, 5, part, (2,)), sample_noise(seed, step, part, (2,)))
    numbers = [torch.rand(4, generator=step_generator(*key)) for key in ((3, 5), (seed, step))]
    assert not torch.equal(*numbers)


def test_noise_is_normal():
    noise = sample_noise(0, 0, Part(0, 200, 200), (100,))
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert noise[:, 0].std().item() == pytest.approx(1, abs=0.2)  # across samples, too
