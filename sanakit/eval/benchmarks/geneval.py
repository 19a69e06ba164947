"""GenEval: does an image show the named things in the right number, colour and place?

Source: Ghosh et al. 2023 (arXiv:2310.11513) and the rules of its evaluation script (MIT), rewritten. 553
prompts of six tasks, four images each. A detector finds COCO's 80 classes; CLIP names the colour of each
found thing, cut out and laid on grey; positions compare the middles of boxes. An image is right or wrong;
the score is the mean over tasks of the share of right images.
Boxes: (left, top, right, bottom) in pixels, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sanakit.errors import DataError
from sanakit.eval.metrics.clip_score import image_vectors
from sanakit.eval.networks.detector import Found
from sanakit.text.clip import ClipScorer

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
THRESHOLD = 0.3  # confidence of a detection, more than that
COUNTING_THRESHOLD = 0.9  # the same where things are counted, so that doubtful ones do not spoil the number
MAX_OBJECTS = 16  # of a class
MARGIN = 0.1  # of both things' sizes: how far apart middles must be before they count as beside each other
BACKGROUND = "#999"  # behind a thing whose colour is asked
IMAGES = 4  # of a prompt, by the protocol
TEMPLATES = (
    "a photo of a {colour} {thing}",
    "a photo of a {colour}-colored {thing}",
    "a photo of a {colour} object",
)


NameColours = Callable[[Image.Image, Sequence[Found]], list[str]]
"""Names the colour of each found thing of an image, all of one class, by a word of COLOURS."""


@dataclass(frozen=True, slots=True)
class GenEvalVerdict:
    """The verdict on an image: whether it is right, and why not."""

    correct: bool
    faults: tuple[str, ...] = ()


def judge(
    image: Image.Image, task: dict[str, Any], found: Sequence[Found], colours: NameColours
) -> GenEvalVerdict:
    """Judge one image.

    task: a row of evaluation_metadata.jsonl. `include` holds classes with the number that must be there,
    perhaps with a colour or a position ("left of", index of an earlier entry); `exclude` those that must be
    fewer.
    Only the surest detections, as many as were requested, are looked at. Raises DataError for another row.
    """
    if not isinstance(task.get("include"), list) or "tag" not in task:
        raise DataError(
            'Not a GenEval task: a row needs "tag" and "include". Use GenEval\'s evaluation_metadata.jsonl.'
        )
    least = COUNTING_THRESHOLD if task["tag"] == "counting" else THRESHOLD
    there: dict[str, list[Found]] = {}
    for one in sorted(found, key=lambda one: -one.score):
        if one.score > least and len(there.setdefault(one.name, [])) < MAX_OBJECTS:
            there[one.name].append(one)
    faults: list[str] = []
    groups: list[list[Found] | None] = []  # an entry each; None where it is not fulfilled
    for wanted in task["include"]:
        group = there.get(wanted["class"], [])[: wanted["count"]]
        fault = _fault(image, wanted, group, groups, colours)
        groups.append(None if fault else group)
        if fault:
            faults.append(fault)
    for unwanted in task.get("exclude", []):
        count = len(there.get(unwanted["class"], []))
        if count >= unwanted["count"]:
            faults.append(f"expected fewer than {unwanted['count']} {unwanted['class']}, found {count}")
    return GenEvalVerdict(not faults, tuple(faults))


def positions(one: Found, other: Found) -> set[str]:
    """Return where one thing lies relative to another: up to two of "left of", "right of", "above", "below".

    Middles that are closer than MARGIN times both widths (heights) do not count as apart in that direction;
    of the rest a direction counts when it makes up more than half of the distance.
    """
    apart, rest = [], []
    for low, high in ((0, 2), (1, 3)):  # across, down
        distance = (one.box[low] + one.box[high] - other.box[low] - other.box[high]) / 2
        sizes = abs(one.box[high] - one.box[low]) + abs(other.box[high] - other.box[low])
        apart.append(distance)
        rest.append(math.copysign(max(abs(distance) - MARGIN * sizes, 0.0), distance))
    length = math.hypot(*apart)
    if max(map(abs, rest)) < 1e-3:
        return set()
    across, down = (value / length for value in rest)
    rules = {"left of": across < -0.5, "right of": across > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {name for name, holds in rules.items() if holds}


def clip_colours(clip: ClipScorer) -> NameColours:
    """Name colours by CLIP: the nearest of COLOURS to each thing, cut out of its image.

    Every colour's direction is the mean over TEMPLATES. The published figures use OpenAI's ViT-L/14.
    """
    known: dict[str, Tensor] = {}

    def directions(thing: str) -> Tensor:  # 10 E
        if thing not in known:
            texts = [text.format(colour=colour, thing=thing) for colour in COLOURS for text in TEMPLATES]
            embedded = clip.texts(texts).cpu().view(len(COLOURS), len(TEMPLATES), -1)
            known[thing] = F.normalize(embedded.mean(1), dim=1)
        return known[thing]

    def name(image: Image.Image, found: Sequence[Found]) -> list[str]:
        nearest = image_vectors(clip, [cut_out(image, one) for one in found]) @ directions(found[0].name).T
        return [COLOURS[index] for index in nearest.argmax(1).tolist()]

    return name


def cut_out(image: Image.Image, found: Found) -> Image.Image:
    """Return the thing's box, grey around the thing where its outline is known."""
    if found.mask is not None:
        blank = Image.new("RGB", image.size, BACKGROUND)
        inside = Image.fromarray(found.mask.to(torch.uint8).mul(255).numpy())
        image = Image.composite(image, blank, inside)
    left, top, right, bottom = (int(edge) for edge in found.box)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def summarise(results: Sequence[tuple[dict[str, Any], bool]]) -> dict[str, float]:
    """Return figures in [0, 1] over all images' (task, correct).

    `overall` is the published one: the mean over the tasks there are. Others: each task's share of right
    images; `pictures` of all; `prompts` with at least one right image.
    """
    by_task: dict[str, list[bool]] = {}
    by_prompt: dict[str, bool] = {}
    for task, correct in results:
        by_task.setdefault(task["tag"], []).append(correct)
        by_prompt[task["prompt"]] = by_prompt.get(task["prompt"], False) or correct
    shares = {tag: _mean(by_task[tag]) for tag in sorted(by_task, key=_order)}
    return {
        "overall": _mean(list(shares.values())),
        **shares,
        "pictures": _mean([correct for _, correct in results]),
        "prompts": _mean(list(by_prompt.values())),
    }


def _fault(
    image: Image.Image,
    wanted: dict[str, Any],
    group: list[Found],
    earlier: list[list[Found] | None],
    colours: NameColours,
) -> str:
    """Return why an entry of `include` is not fulfilled; "" if it is."""
    thing, count = wanted["class"], wanted["count"]
    if len(group) < count:
        return f"expected {count} {thing}, found {len(group)}"
    if "color" in wanted:
        named = colours(image, group)
        if named.count(wanted["color"]) < count:
            return f"expected {count} {wanted['color']} {thing}, found {', '.join(named)}"
    if "position" in wanted:
        relation, index = wanted["position"]
        target = earlier[index]
        if target is None:
            return f"expected {thing} {relation} something that is not there"
        if not all(relation in positions(one, other) for one in group for other in target):
            return f"expected {thing} {relation} {target[0].name}, found it elsewhere"
    return ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _order(tag: str) -> tuple[int, str]:
    return (TASKS.index(tag), "") if tag in TASKS else (len(TASKS), tag)
