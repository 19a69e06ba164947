"""Clips and images in turn: evenly spread, each feed on steps of its own without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.train.feeds.feed import Shown
from sanakit.train.feeds.joint import JointFeed
from sanakit.train.parts import Part

PART = Part(0, 2, 2)


class Asked:
    """A feed that notes the steps it is asked for."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.begun: int | None = None
        self.steps: list[int] = []

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        self.begun = first

    def shown(self, step: int, part: Part) -> Shown:
        self.steps.append(step)
        return Shown(torch.full((len(part), 1, self.frames, 1, 1), float(step)), ["a fox"] * len(part))


@pytest.mark.parametrize(("share", "images"), [(0.25, 5), (1 / 3, 6), (0.0, 0), (1.0, 20), (0.7, 14)])
def test_steps_of_images_are_spread_evenly(share: float, images: int) -> None:
    feed = JointFeed(Asked(5), Asked(1), share)
    frames = [feed.shown(step, PART).latents.shape[2] for step in range(20)]
    assert frames.count(1) == images
    assert feed.images.steps == list(range(images))  # pyright: ignore[reportAttributeAccessIssue]
    assert feed.clips.steps == list(range(20 - images))  # pyright: ignore[reportAttributeAccessIssue]
    own = [step for step, count in enumerate(frames) if count == 1]
    gaps = [later - earlier for earlier, later in pairwise(own)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert [feed.shows_images(step) for step in range(20)] == [count == 1 for count in frames]


@pytest.mark.parametrize("first", [0, 3, 4, 11])
def test_a_resumed_run_sees_the_steps_that_it_would_have_seen(first: int) -> None:
    feed, again = JointFeed(Asked(5), Asked(1), 0.25), JointFeed(Asked(5), Asked(1), 0.25)
    whole = [feed.shown(step, PART).latents for step in range(20)]
    again.begin(first, [PART])
    rest = [again.shown(step, PART).latents for step in range(first, 20)]
    assert all(torch.equal(one, other) for one, other in zip(whole[first:], rest, strict=True))  # pyright: ignore
    assert again.images.begun == (again.images.steps or [5])[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert again.clips.begun == again.clips.steps[0]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(SettingsError, match="image_share"):
        JointFeed(Asked(5), Asked(1), 1.2)
