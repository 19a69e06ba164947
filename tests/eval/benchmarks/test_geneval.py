"""The rules on detections that are made up, each with a verdict known from the benchmark's rules."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from sanakit.errors import DataError
from sanakit.eval.benchmarks.geneval import COLOURS, Found, cut_out, judge, positions, summarise
from sanakit.eval.networks.detector import CLASSES, instances

WHITE = Image.new("RGB", (100, 100), "white")
Box = tuple[float, float, float, float]


def thing(name: str, box: Box = (0, 0, 10, 10), score: float = 0.95) -> Found:
    return Found(name, score, box)


def right(task: dict, *found: Found, colours=lambda image, group: ["red"] * len(group)) -> bool:
    return judge(WHITE, {"tag": "two_object", **task}, found, colours).correct


def test_all_that_is_asked_for_must_be_there() -> None:
    task = {"include": [{"class": "cup", "count": 1}, {"class": "dog", "count": 1}]}
    assert right(task, thing("cup"), thing("dog"), thing("cat"))
    assert not right(task, thing("cup"), thing("cat"))
    assert judge(WHITE, {"tag": "two_object", **task}, [thing("cup")], lambda *_: []).faults == (
        "expected 1 dog, found 0",
    )


@pytest.mark.parametrize(("count", "verdict"), [(2, False), (3, True), (4, False)])
def test_counting_is_exact(count: int, verdict: bool) -> None:
    task = {
        "tag": "counting",
        "include": [{"class": "orange", "count": 3}],
        "exclude": [{"class": "orange", "count": 4}],
    }
    assert right(task, *[thing("orange")] * count) is verdict


@pytest.mark.parametrize(
    ("tag", "score", "verdict"),
    [
        ("single_object", 0.31, True),
        ("single_object", 0.30, False),
        ("counting", 0.90, False),
        ("counting", 0.91, True),
    ],
)
def test_doubtful_detections_do_not_count_and_fewer_where_things_are_counted(
    tag: str, score: float, verdict: bool
) -> None:
    assert (
        right({"tag": tag, "include": [{"class": "cup", "count": 1}]}, thing("cup", score=score)) is verdict
    )


def test_at_most_16_of_a_class_are_kept() -> None:
    task = {"include": [{"class": "cup", "count": 17}]}
    assert not right(task, *[thing("cup")] * 20)


def test_the_colour_of_the_surest_thing_is_asked() -> None:
    task = {"include": [{"class": "cup", "count": 1, "color": "red"}]}
    asked: list[float] = []

    def colours(image: Image.Image, group) -> list[str]:
        asked.extend(one.score for one in group)
        return ["red" if one.score > 0.9 else "blue" for one in group]

    assert right(task, thing("cup", score=0.5), thing("cup", score=0.95), colours=colours)
    assert asked == [0.95]
    assert not right(task, thing("cup", score=0.5), colours=colours)


def test_colours_are_those_of_each_entry() -> None:
    task = {
        "include": [
            {"class": "cup", "count": 1, "color": "red"},
            {"class": "dog", "count": 1, "color": "blue"},
        ]
    }
    named = {"cup": "red", "dog": "blue"}
    found = thing("cup"), thing("dog")
    assert right(task, *found, colours=lambda image, group: [named[one.name] for one in group])
    named = {"cup": "blue", "dog": "red"}
    assert not right(task, *found, colours=lambda image, group: [named[one.name] for one in group])


@pytest.mark.parametrize(
    ("relation", "box", "verdict"),
    [
        ("left of", (0, 40, 20, 60), True),
        ("left of", (80, 40, 100, 60), False),
        ("right of", (80, 40, 100, 60), True),
        ("above", (40, 0, 60, 20), True),
        ("above", (40, 80, 60, 100), False),
        ("below", (40, 80, 60, 100), True),
        ("left of", (41, 41, 59, 59), False),
    ],
)
def test_positions_are_relative_to_the_earlier_entry(relation: str, box: Box, verdict: bool) -> None:
    task = {
        "tag": "position",
        "include": [
            {"class": "sink", "count": 1},
            {"class": "tie", "count": 1, "position": [relation, 0]},
        ],
    }
    assert right(task, thing("sink", (40, 40, 60, 60)), thing("tie", box)) is verdict


def test_a_position_needs_its_target() -> None:
    task = {
        "include": [{"class": "sink", "count": 1}, {"class": "tie", "count": 1, "position": ["above", 0]}]
    }
    verdict = judge(WHITE, {"tag": "position", **task}, [thing("tie")], lambda *_: [])
    assert verdict.faults == ("expected 1 sink, found 0", "expected tie above something that is not there")


@pytest.mark.parametrize(
    ("shift", "relations"),
    [(3.9, set()), (4.1, set()), (8.1, {"right of"}), (-8.1, {"left of"})],
)
def test_middles_must_be_apart_by_a_tenth_of_both_widths_and_by_half_of_the_distance(
    shift: float, relations: set[str]
) -> None:
    """Widths 20 and 20: the first 4 px do not count, and what remains must be more than half of the shift."""
    one, other = thing("a", (40 + shift, 40, 60 + shift, 60)), thing("b", (40, 40, 60, 60))
    assert positions(one, other) == relations


def test_diagonally_two_relations_hold() -> None:
    assert positions(thing("a", (0, 0, 2, 2)), thing("b", (50, 50, 52, 52))) == {"left of", "above"}


def test_another_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"evaluation_metadata\.jsonl"):
        judge(WHITE, {"prompt": "a cup"}, [], lambda *_: [])


def test_a_thing_is_cut_out_along_its_outline() -> None:
    image = Image.new("RGB", (8, 8), "red")
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 2:4] = True
    out = cut_out(image, Found("cup", 1, (2, 2, 6, 6), mask))
    assert out.size == (4, 4)
    assert out.getpixel((0, 0)) == (255, 0, 0)
    assert out.getpixel((3, 0)) == (0x99, 0x99, 0x99)


def test_the_score_is_the_mean_over_tasks_not_over_pictures() -> None:
    def row(tag: str, prompt: str) -> dict:
        return {"tag": tag, "prompt": prompt}

    results = [
        (row("counting", "three cups"), False),
        (row("single_object", "a cup"), True),
        (row("single_object", "a cup"), False),
        (row("single_object", "a dog"), True),
        (row("single_object", "a dog"), True),
    ]
    found = summarise(results)
    assert list(found)[:3] == ["overall", "single_object", "counting"]
    assert found["overall"] == pytest.approx((0.75 + 0) / 2)
    assert found["pictures"] == pytest.approx(0.6)
    assert found["prompts"] == pytest.approx(2 / 3)


def test_there_are_80_classes_and_10_colours_in_the_benchmarks_spelling() -> None:
    assert len(set(CLASSES)) == 80
    assert {"computer mouse", "tv remote", "computer keyboard", "hair drier"} <= set(CLASSES)
    assert CLASSES.index("person") == 0
    assert CLASSES.index("toothbrush") == 79
    assert len(COLOURS) == 10


def test_a_masks_box_and_confidence() -> None:
    """One query for a bicycle, sure of four pixels; one for nothing; one for a car without a pixel."""
    class_logits = torch.full((3, 81), -30.0)
    class_logits[0, 1] = class_logits[1, 80] = class_logits[2, 2] = 30.0
    mask_logits = torch.full((3, 6, 8), -5.0)
    mask_logits[0, 1:3, 4:6] = math.log(4)  # a chance of 0.8
    (found,) = instances(class_logits, mask_logits)
    assert found.name == "bicycle"
    assert found.box == (4, 1, 6, 3)
    assert found.score == pytest.approx(0.8, abs=1e-3)
    assert found.mask is not None
    assert found.mask.sum() == 4
