"""Windows of looping clips: where they come from, round the loop, and that parts of a batch are the batch."""

from __future__ import annotations

import numpy as np
import torch

from sanakit.train.feeds.clips import Windows
from sanakit.train.parts import Part

SIDE = 8
WHOLE = Part(0, 8, 8)


class Numbered:
    """Loops whose pixels tell the clip (red), the frame (green) and the column (blue)."""

    lengths = (20, 7, 31)

    def take(self, number: int, start: int, step: int, count: int) -> np.ndarray:
        frames = np.zeros((count, SIDE, SIDE, 3), np.uint8)
        frames[..., 0] = number
        frames[..., 1] = ((start + step * np.arange(count)) % self.lengths[number])[:, None, None]
        frames[..., 2] = np.arange(SIDE)
        return frames


def windows(**settings) -> Windows:
    return Windows(Numbered(), np.array([0.5, 0.0, 0.5]), **{"frames": 5, **settings})


def levels(clips: torch.Tensor) -> torch.Tensor:
    return clips.add(1).mul(127.5).round().int()


def test_windows_start_anywhere_go_round_the_loop_at_their_pace_and_half_are_mirrored() -> None:
    batch = levels(windows(paces=(2, 3)).batch(0, Part(0, 400, 400)).clips)
    assert batch.shape == (400, 3, 5, SIDE, SIDE)
    numbers, frames, columns = batch[:, 0, 0, 0, 0], batch[:, 1, :, 0, 0], batch[:, 2, 0, 0]
    assert set(numbers.tolist()) == {0, 2}
    for number in (0, 2):
        length, own = Numbered.lengths[number], frames[numbers == number]
        assert set(own[:, 0].tolist()) == set(range(length))
        paces = own.diff(dim=1) % length
        assert (paces == paces[:, :1]).all()
        assert set(paces[:, 0].tolist()) == {2, 3}
        assert (own[:, -1] < own[:, 0]).any()  # over the seam
    rising = (columns.diff(dim=1) == 1).all(1)
    falling = (columns.diff(dim=1) == -1).all(1)
    assert (rising | falling).all()
    assert 140 < rising.sum() < 260


def test_a_step_is_always_the_same_batch_and_another_step_or_seed_another_one() -> None:
    first = windows(seed=3).batch(5, WHOLE).clips
    assert torch.equal(first, windows(seed=3).batch(5, WHOLE).clips)
    assert not torch.equal(first, windows(seed=3).batch(6, WHOLE).clips)
    assert not torch.equal(first, windows(seed=4).batch(5, WHOLE).clips)


def test_parts_put_together_are_the_batch() -> None:
    expected = windows().batch(0, WHOLE).clips
    parts = [windows().batch(0, Part(*cut, 8)) for cut in ((0, 3), (3, 4), (4, 8))]
    assert torch.equal(torch.cat([part.clips for part in parts]), expected)
    assert torch.cat([part.shares for part in parts]).tolist() == [1 / 8] * 8
