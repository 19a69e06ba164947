"""The distance of sets of clips against the equation of Gaussians in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.eval.metrics.clip_distance import ClipMoments, clip_distance


def features(seed: int, frames: int = 12, width: int = 5) -> Tensor:
    """Of one clip: a walk in feature space, T F."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, width, generator=generator).cumsum(0) / 4


def moments(clips: list[Tensor]) -> ClipMoments:
    found = ClipMoments()
    for clip in clips:
        found.add(clip)
    return found


def equation(first: np.ndarray, second: np.ndarray) -> float:
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    return float(apart + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2))))


def test_it_equals_the_equation_over_frames_and_over_their_changes() -> None:
    sides = [[features(seed, 8 + seed) for seed in seeds] for seeds in (range(4), range(4, 9))]
    found = clip_distance(*map(moments, sides))
    frames = [np.concatenate([clip.double().numpy() for clip in side]) for side in sides]
    changes = [np.concatenate([np.diff(clip.double().numpy(), axis=0) for clip in side]) for side in sides]
    assert found.frames == pytest.approx(equation(*frames), abs=1e-6)
    assert found.changes == pytest.approx(equation(*changes), abs=1e-6)
    assert found.total == found.frames + found.changes


def test_shuffled_frames_differ_in_their_changes_alone() -> None:
    clips = [features(seed) for seed in range(6)]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    found = clip_distance(moments(clips), moments([clip[order] for clip in clips]))
    assert found.frames == pytest.approx(0, abs=1e-9)
    assert found.changes > 0.1


def test_frozen_clips_differ_in_their_changes() -> None:
    clips = [features(seed) for seed in range(6)]
    frozen = [clip[:1].expand(12, -1) for clip in clips]
    spread = torch.cat([clip.diff(dim=0) for clip in clips]).double()
    expected = spread.mean(0).square().sum() + spread.var(0).sum()
    assert clip_distance(moments(clips), moments(frozen)).changes == pytest.approx(float(expected), abs=1e-6)


def test_a_clip_of_one_frame_is_refused() -> None:
    with pytest.raises(SettingsError, match="a clip has 1"):
        ClipMoments().add(torch.ones(1, 3))
