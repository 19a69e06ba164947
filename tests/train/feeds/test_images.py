"""Crops: where they come from, that parts of a batch are the batch, and when whole images come."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.images.image import to_tensor
from sanakit.train.feeds.images import Crops
from sanakit.train.parts import Part

WHOLE = Part(0, 8, 8)


def numbered(count: int = 6, side: int = 32) -> np.ndarray:
    """Images whose pixels tell which image they are of (red), their column (green) and row (blue)."""
    pictures = np.zeros((count, side, side, 3), np.uint8)
    pictures[..., 0] = np.arange(count)[:, None, None]
    pictures[..., 1] = np.arange(side)[None, None, :]
    pictures[..., 2] = np.arange(side)[None, :, None]
    return pictures


def bytes_of(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.add(1).mul(127.5).round().int()


def test_crops_are_cut_from_drawn_pictures_and_mirrored_half_of_the_time() -> None:
    weights = np.array([0, 0, 1, 1, 1, 1.0])
    batch = Crops(numbered(), weights, crop=16).batch(0, Part(0, 200, 200))
    crops = bytes_of(batch.images)
    assert crops.shape == (200, 3, 16, 16)
    assert set(crops[:, 0].unique().tolist()) == {2, 3, 4, 5}
    assert (crops[:, 2].diff(dim=1) == 1).all()
    rising = (crops[:, 1].diff(dim=2) == 1).all((1, 2))
    falling = (crops[:, 1].diff(dim=2) == -1).all((1, 2))
    assert (rising | falling).all()
    assert 60 < rising.sum() < 140
    assert set(crops[:, 1].amin((1, 2)).tolist()) == set(range(17))  # every corner that fits


def test_a_step_is_always_the_same_batch_and_another_step_another_one() -> None:
    crops = Crops(numbered(), crop=16, seed=3)
    assert torch.equal(crops.batch(5, WHOLE).images, crops.batch(5, WHOLE).images)
    assert not torch.equal(crops.batch(5, WHOLE).images, crops.batch(6, WHOLE).images)
    other = Crops(numbered(), crop=16, seed=4)
    assert not torch.equal(crops.batch(5, WHOLE).images, other.batch(5, WHOLE).images)


@pytest.mark.parametrize("whole_from", [0, 10**9])
def test_parts_put_together_are_the_batch(whole_from: int) -> None:
    crops = Crops(numbered(), crop=16, whole_from=whole_from)
    expected = crops.batch(0, WHOLE)
    parts = [crops.batch(0, Part(*cut, 8)) for cut in ((0, 3), (3, 4), (4, 8))]
    kept = [part.images[part.shares > 0] for part in parts]
    assert torch.equal(torch.cat(kept), expected.images)
    assert sum(part.shares.sum().item() for part in parts) == pytest.approx(1)
    assert all(len(part.images) for part in parts)  # a rank without an image would compute no gradients


def test_whole_pictures_follow_crops_in_smaller_batches() -> None:
    crops = Crops(numbered(), crop=16, whole_from=10)
    shapes = [tuple(crops.batch(step, WHOLE).images.shape) for step in (0, 9, 10)]
    assert shapes == [(8, 3, 16, 16), (8, 3, 16, 16), (2, 3, 32, 32)]


def test_pictures_may_be_made_when_they_are_asked_for() -> None:
    class Composed:
        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: int) -> np.ndarray:
            return np.full((32, 32, 3), index % 256, np.uint8)

    pictures = Crops(Composed(), crop=32).batch(0, WHOLE).images
    assert pictures.shape == (8, 3, 32, 32)
    assert len({picture.mean().item() for picture in pictures}) > 4


def test_bytes_become_the_whole_range() -> None:
    out = to_tensor(np.array([[[[0, 127, 255]]]], dtype=np.uint8))
    assert out.flatten().tolist() == pytest.approx([-1, -1 / 255, 1])


@pytest.mark.parametrize("crop", [0, 33])
def test_crops_that_do_not_fit_are_refused(crop: int) -> None:
    with pytest.raises(SettingsError, match="32 px"):
        Crops(numbered(), crop=crop)
