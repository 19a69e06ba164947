"""Times of chunks: never falling, each such sequence as likely as any other, or independent."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.flow.chunk_times import (
    _never_falling,  # pyright: ignore[reportPrivateUsage]
    mix_chunk_times,
    sample_chunk_times,
)
from sanakit.flow.path import shift_times


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_sequences_that_never_fall_are_drawn_alike() -> None:
    """Three numbers from 2 to 5: 20 sequences; chi-square with 19 degrees of freedom, 43.8 at p = 0.001."""
    random, draws = generator(), 8000
    counts = Counter(tuple(_never_falling(3, 2, 5, random).tolist()) for _ in range(draws))
    expected = set(combinations_with_replacement(range(2, 6), 3))
    assert counts.keys() == expected
    each = draws / len(expected)
    assert sum((counts[one] - each) ** 2 / each for one in expected) < 43.8


def test_incremental_times_never_fall_and_lie_on_the_shifted_steps() -> None:
    times = sample_chunk_times(500, 4, 3.0, generator())
    assert times.shape == (500, 4)
    assert times.dtype == torch.float32
    assert (times.diff(dim=1) >= 0).all()
    assert ((times >= 0) & (times < 1)).all()
    grid = shift_times(torch.arange(1000) / 1000, 3.0)
    assert torch.isin(times, grid).all()
    assert len(times.unique()) > 300


def test_the_anchor_is_any_chunk_with_a_logit_normal_time() -> None:
    """With one chunk only the anchor is left: median 0.5 before the shift, 16 % below sigmoid(-1)."""
    times = sample_chunk_times(4000, 1, 1.0, generator()).flatten()
    assert times.median().item() == pytest.approx(0.5, abs=0.02)
    below = (times < torch.sigmoid(torch.tensor(-1.0))).float().mean().item()
    assert below == pytest.approx(0.1587, abs=0.02)
    two = sample_chunk_times(4000, 2, 1.0, generator())
    # anchor first: the second is uniform above it; anchor last: the first is uniform below it
    mean = torch.sigmoid(torch.randn(200_000, generator=generator(1))).mean().item()
    first, second = two.mean(0).tolist()
    assert first == pytest.approx((mean + mean / 2) / 2, abs=0.02)
    assert second == pytest.approx((mean + (mean + 1) / 2) / 2, abs=0.02)


def test_the_last_chunk_is_the_anchor_and_those_before_are_less_noisy_or_clean() -> None:
    """The last one is logit-normal, as one chunk alone; before it a uniform one, or 0."""
    alone = sample_chunk_times(4000, 1, 1.0, generator()).flatten()
    for order in ("last", "clean"):
        times = sample_chunk_times(4000, 2, 1.0, generator(), order)
        assert torch.equal(times[:, 1], alone)
        assert (times.diff(dim=1) >= 0).all()
        mean = times[:, 0].mean().item()
        assert mean == pytest.approx(0.0 if order == "clean" else alone.mean().item() / 2, abs=0.02)
    shifted = sample_chunk_times(4000, 2, 3.0, generator(), "clean")
    torch.testing.assert_close(shifted[:, 1], shift_times(alone, 3.0))


def test_ways_are_mixed_in_their_shares_and_each_draws_for_all_samples() -> None:
    """What one sample is drawn by changes no other one's times; a way without a share draws nothing."""
    ways = [("incremental", 0.4), ("uniform", 0.0), ("clean", 0.3), ("last", 0.0), ("same", 0.3)]
    which = torch.tensor([0.0, 0.39, 0.41, 0.69, 0.71, 1.0])
    times = mix_chunk_times(which, 3, 3.0, generator(), ways)  # pyright: ignore[reportArgumentType]
    random = generator()
    rising, clean = (sample_chunk_times(6, 3, 3.0, random, order) for order in ("incremental", "clean"))
    assert torch.equal(times[:2], rising[:2])
    assert torch.equal(times[2:4], clean[2:4])
    assert times[4:].isnan().all()


def test_uniform_times_are_independent() -> None:
    times = sample_chunk_times(5000, 3, 3.0, generator(), "uniform")
    logits = torch.logit(shift_times(times, 1 / 3.0))
    correlation = torch.corrcoef(logits.T)
    assert torch.allclose(correlation, torch.eye(3), atol=0.05)
    assert torch.allclose(logits.mean(0), torch.zeros(3), atol=0.05)


@pytest.mark.parametrize(("chunks", "order"), [(0, "incremental"), (2, "falling")])
def test_what_cannot_be_drawn_is_refused(chunks: int, order: str) -> None:
    with pytest.raises(SettingsError):
        sample_chunk_times(1, chunks, 3.0, generator(), order)  # pyright: ignore[reportArgumentType]
