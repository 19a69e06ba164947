"""The reward of scenes: 1 exactly where PocketEval says yes, and less the more is wrong."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.pocket.data.palette import COLOURS
from sanakit.pocket.evaluate.judge import SceneJudge, Thing
from sanakit.pocket.evaluate.pocket_eval import KINDS, Question, holds
from sanakit.pocket.evaluate.scene_reward import SceneReward, score

FOX, KEY, CAT = (Thing(name, x, 128, 128) for name, x in (("fox", 64), ("key", 192), ("cat", 128)))
LOW_KEY, BIG_FOX = Thing("key", 64, 220, 64), Thing("fox", 64, 128, 160)


def plain(name: str) -> Tensor:
    return torch.tensor(COLOURS[name]).view(3, 1, 1).expand(3, 256, 256) / 127.5 - 1


def question(kind: str, *concepts: str, ground: str = "white", colour: str | None = None) -> Question:
    return Question(kind=kind, prompt=kind, concepts=concepts, ground=ground, colour=colour)


def of(kind: str, *things: Thing, ground: str = "white", image: str = "white") -> float:
    return score(question(kind, "fox", "key", ground=ground), things, plain(image))


def test_it_is_one_exactly_where_everything_holds() -> None:
    silhouette = plain("white").clone()
    silhouette[:, 64:192, 64:192] = plain("green")[:, :128, :128]
    shown = [[], [FOX], [KEY, FOX], [FOX, LOW_KEY], [BIG_FOX, LOW_KEY], [FOX, FOX], [FOX, KEY, CAT], [CAT]]
    images = [plain("white"), plain("red"), silhouette]
    counted = 0
    for kind, things, image in itertools.product(KINDS, shown, images):
        concepts = {"object": ("fox",), "ground": ("fox",), "silhouette": ("fox",), "count": ("fox", "fox")}
        asked = question(
            kind, *concepts.get(kind, ("fox", "key")), colour="green" if kind == "silhouette" else None
        )
        found = score(asked, things, image)
        assert 0 <= found <= 1
        assert (found == 1) == holds(asked, things, image), (kind, things)
        counted += found == 1
    assert counted > 8


def test_half_of_what_is_asked_counts_half() -> None:
    assert of("two", FOX) == pytest.approx((1 / 2 + 1) / 2)
    assert of("two", FOX, KEY, CAT) == pytest.approx((2 / 3 + 1) / 2)
    assert of("two") == pytest.approx((0 + 1) / 2)
    assert of("two", FOX, KEY, ground="red") == pytest.approx((1 + 0) / 2)
    assert of("two", FOX, image="red") < of("two", FOX)


def test_order_counts_as_far_as_it_holds() -> None:
    near, wrong = Thing("key", 80, 128, 128), Thing("key", 20, 128, 128)
    assert of("left", FOX, KEY, CAT) > of("left", FOX, near, CAT) > of("left", FOX, wrong, CAT)
    # 16 px of 64 to the right; two of three things; the right ground
    assert of("left", FOX, near, CAT) == pytest.approx((2 / 3 + 1 + 16 / 64) / 3)
    assert of("above", FOX, LOW_KEY, CAT) > of("above", FOX, KEY, CAT)


def test_size_counts_as_far_as_it_holds() -> None:
    sizes = [of("size", Thing("fox", 64, 128, side), KEY) for side in (120, 128, 140, 160)]
    assert sizes[0] == sizes[1] == pytest.approx(2 / 3)
    assert sizes[2] == pytest.approx((2 + (140 / 128 - 1) / 0.2) / 3)
    assert sizes[3] == 1


def test_a_thing_that_is_missing_has_no_order() -> None:
    assert of("left", FOX) == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_a_silhouette_needs_its_colour_and_that_it_is_alone() -> None:
    asked = question("silhouette", "fox", colour="green")
    assert score(asked, [FOX], plain("white")) == pytest.approx(2 / 3)
    assert score(asked, [FOX, KEY], plain("white")) == pytest.approx(1 / 3)


def test_images_are_judged_by_their_own_questions() -> None:
    class Seen(SceneJudge):
        def look(self, images: Tensor) -> list[list[Thing]]:
            return [[FOX, KEY], [FOX, KEY]][: len(images)]

    both = [question("two", "fox", "key"), question("count", "fox", "fox")]
    reward = SceneReward(Seen(["fox", "key"]), both)
    images = torch.stack([plain("white")] * 2)
    assert reward(images, ["two", "count"]).tolist() == pytest.approx([1, (1 / 3 + 1) / 2])
    with pytest.raises(SettingsError, match="no question 'a dog'"):
        reward(images, ["two", "a dog"])
