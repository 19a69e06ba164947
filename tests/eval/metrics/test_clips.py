"""Figures of drawn clips, against their definitions in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanakit.eval.metrics.clips import clip_figures


def by_numpy(drawn: np.ndarray, wanted: np.ndarray) -> tuple[float, float, float, float]:
    """PSNR, PSNR of what is not white, flicker and motion, one clip and one pixel at a time."""
    drawn, wanted = (np.clip(drawn, -1, 1) + 1) / 2, (wanted + 1) / 2
    psnr = np.mean([10 * np.log10(1 / np.mean((a - b) ** 2)) for a, b in zip(drawn, wanted, strict=True)])
    inner = np.array(
        [
            (drawn[b, :, t, y, x] - wanted[b, :, t, y, x]) ** 2
            for b, t, y, x in np.ndindex(*(wanted.shape[i] for i in (0, 2, 3, 4)))
            if wanted[b, :, t, y, x].min() < 0.98
        ]
    )
    moved, moves = (clip[:, :, 1:] - clip[:, :, :-1] for clip in (drawn, wanted))
    real = np.abs(moves).mean()
    flicker, motion = np.abs(moved - moves).mean() / real, np.abs(moved).mean() / real
    return float(psnr), float(10 * np.log10(1 / inner.mean())), float(flicker), float(motion)


def test_figures_equal_their_definitions() -> None:
    random = np.random.default_rng(0)
    wanted = random.uniform(-1, 1, (3, 3, 5, 6, 4))
    wanted[:, :, :, 2:5] = 1.0  # white
    drawn = wanted + random.normal(0, [[[[[0.1]]]], [[[[0.3]]]], [[[[0.02]]]]], wanted.shape)
    found = clip_figures(torch.from_numpy(drawn), torch.from_numpy(wanted))
    expected = by_numpy(drawn, wanted)
    assert (found.psnr, found.inner, found.flicker, found.motion) == pytest.approx(expected, rel=1e-6)
    assert found.inner < found.psnr


def test_a_clip_that_stands_still_flickers_as_much_as_it_lacks_motion() -> None:
    wanted = torch.rand(1, 3, 5, 8, 8) * 2 - 1
    still = wanted[:, :, :1].expand_as(wanted)
    found = clip_figures(still, wanted)
    assert (found.flicker, found.motion) == (1.0, 0.0)
    same = clip_figures(wanted, wanted)
    assert (same.flicker, same.motion, same.psnr) == (0.0, 1.0, float("inf"))
