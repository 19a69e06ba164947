"""PocketEval: does an image show what was requested, when the combination was never learned?

A question is a prompt about one to four of 200 common things, and what must hold for its image. All but
those of "object" ask for combinations that training scenes leave out (`sanakit.pocket.data.scenes`). An
image counts when everything holds: the right things and no others, their number, order and size, the
colours of ground and silhouette (of a silhouette's thing only that it is one). The judge errs, too: what it
says of real scenes stands beside every figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from sanakit.pocket.data.palette import ground_of, silhouette_of
from sanakit.pocket.evaluate.judge import FOLDER, SceneJudge, Thing, load_judge
from sanakit.pocket.evaluate.report import Draw, OnProgress

KINDS = ("object", "ground", "silhouette", "two", "count", "left", "above", "size")
BATCH = 20
LARGER = 1.2  # times the other side: what is asked to be larger


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question. kind: of KINDS. concepts: each as often as it must be there, in the kind's order.

    "left" has the left thing first, "above" the upper, "size" the larger. ground, colour (of a silhouette):
    names.
    """

    kind: str
    prompt: str
    concepts: tuple[str, ...]
    ground: str
    colour: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PocketEval:
    """Shares of images in which everything holds, in [0, 1], by kind; "all": their mean over kinds.

    judge: the same shares for real scenes that show what is asked, as the judge sees them. failed: prompts.
    """

    questions: int
    shares: dict[str, float]
    judge: dict[str, float]
    failed: tuple[str, ...]


def evaluate_scenes(
    draw: Draw,
    *,
    seed: int = 0,
    per_kind: int | None = None,
    folder: str | Path = FOLDER,
    progress: OnProgress = lambda what, done, total: None,
) -> PocketEval:
    """Ask every question once, question i with seed + i, and judge the images.

    per_kind: questions of each kind, None: all there are. folder: of the judge and its questions.
    Raises DataError if they cannot be read.
    """
    judge, notes = load_judge(folder)
    asked = [Question(**{**row, "concepts": tuple(row["concepts"])}) for row in notes["questions"]]
    numbers = [i for kind in KINDS for i in [n for n, q in enumerate(asked) if q.kind == kind][:per_kind]]
    verdicts: list[tuple[Question, bool]] = []
    for start in range(0, len(numbers), BATCH):
        part = numbers[start : start + BATCH]
        questions = [asked[i] for i in part]
        # seeds go up one by one in a call: questions that are neighbours in the list can be drawn together
        together = part[-1] - part[0] == len(part) - 1
        groups = [part] if together else [[i] for i in part]
        images = torch.cat([draw([asked[i].prompt for i in group], seed + group[0]) for group in groups])
        verdicts += zip(questions, judged(judge, questions, images), strict=True)
        progress("asking and judging", len(verdicts), len(numbers))
    return PocketEval(
        questions=len(verdicts),
        shares=shares(verdicts),
        judge=notes["accuracy"],
        failed=tuple(question.prompt for question, right in verdicts if not right),
    )


def judged(judge: SceneJudge, questions: Sequence[Question], images: Tensor) -> list[bool]:
    """Tell of each image (B 3 256 256 in [-1, 1]) whether everything that its question asks holds."""
    images = images.float().cpu().clamp(-1, 1)
    return [
        holds(question, things, image)
        for question, things, image in zip(questions, judge.look(images), images, strict=True)
    ]


def holds(question: Question, things: Sequence[Thing], image: Tensor) -> bool:
    """Tell whether an image (3 256 256 in [-1, 1]) in which these things were seen answers its question."""
    if ground_of(image) != question.ground:
        return False
    if question.colour is not None:  # of what thing it is an outline, the judge tells too seldom
        return len(things) == 1 and silhouette_of(image) == question.colour
    if Counter(question.concepts) != Counter(thing.concept for thing in things):
        return False
    if question.kind in ("left", "above", "size"):
        first, second = (next(t for t in things if t.concept == name) for name in question.concepts)
        match question.kind:
            case "left":
                return first.x < second.x - abs(first.y - second.y)
            case "above":
                return first.y < second.y - abs(first.x - second.x)
            case _:
                return first.side > LARGER * second.side
    return True


def shares(verdicts: Sequence[tuple[Question, bool]]) -> dict[str, float]:
    """Share of right answers of each kind that was asked about, and their mean as "all"."""
    kinds = [kind for kind in KINDS if any(question.kind == kind for question, _ in verdicts)]
    found: dict[str, float] = {}
    for kind in kinds:
        answers = [right for question, right in verdicts if question.kind == kind]
        found[kind] = sum(answers) / len(answers)
    return found | {"all": sum(found.values()) / len(kinds)}


def as_rows(questions: Sequence[Question]) -> list[Mapping[str, object]]:
    """Questions as they are kept with the judge."""
    return [asdict(question) for question in questions]
