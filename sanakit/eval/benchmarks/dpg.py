"""DPG-Bench: does an image show all details of a long prompt? Judged by yes-or-no questions.

Source: Hu et al. 2024 (arXiv:2403.05135, ELLA), table dpg_bench.csv: 1,065 prompts, each with questions that
may depend on others ("is the chair red?" on "is there a chair?"). Where a question it depends on is answered
with no, or is void itself, a yes is void. An image's score is its share of yes, the benchmark's the mean
over prompts times 100. The published judge is mPLUG-large; `Ask` may be any other model that looks at
images, and figures by different judges do not compare.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sanakit.errors import DataError
from sanakit.reading import check_file

Ask = Callable[[Image.Image, str], bool]
"""Whether the answer to a question about an image is yes."""
COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
IMAGES = 4  # of a prompt, by the protocol


@dataclass(frozen=True, slots=True)
class DPGQuestion:
    """One question. category: as "entity - whole".   needs: numbers of the questions it depends on."""

    number: int
    text: str
    category: str = ""
    needs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """The judge's answers for one image: number of a question -> yes.

    score: the share of yes, in [0, 1]; a void yes is a no.
    """

    said: dict[int, bool]
    score: float


def read_questions(path: str | Path) -> dict[str, list[DPGQuestion]]:
    """Read dpg_bench.csv: name of a prompt -> its questions.

    Skips rows whose proposition_id is not a number (a repeated heading). Raises DataError, naming the line,
    for a question that depends on a missing question or, through others, on itself.
    """
    found: dict[str, list[DPGQuestion]] = {}
    try:
        check_file(path)
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if lacking := set(COLUMNS) - set(reader.fieldnames or ()):
                raise DataError(f"{path} lacks the column {min(lacking)}: give DPG-Bench's dpg_bench.csv.")
            for row in reader:
                if not (row["proposition_id"] or "").strip().isdecimal():
                    continue
                needs = (int(number) for number in row["dependency"].split(","))
                question = DPGQuestion(
                    int(row["proposition_id"]),
                    row["question_natural_language"].strip(),
                    row["tuple"].split("(")[0].strip(),
                    tuple(number for number in needs if number),  # 0: none
                )
                found.setdefault(row["item_id"].strip(), []).append(question)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as DPG-Bench's questions ({error}).") from None
    for name, questions in found.items():
        try:
            valid(questions, {question.number: True for question in questions})
        except DataError as error:
            raise DataError(f"{path}, prompt {name!r}: {error}") from None
    return found


def valid(questions: Sequence[DPGQuestion], said: Mapping[int, bool]) -> dict[int, bool]:
    """Return for each question whether its yes counts: all questions it depends on must be yes too.

    Raises DataError where dependencies lead nowhere or in a circle.
    """
    by_number = {question.number: question for question in questions}
    counts: dict[int, bool] = {}

    def holds(number: int, above: tuple[int, ...]) -> bool:
        if number not in by_number:
            raise DataError(f"Question {above[-1]} depends on question {number}, which is missing.")
        if number in above:
            raise DataError(f"Question {number} depends on itself.")
        if number not in counts:
            needed = [holds(one, (*above, number)) for one in by_number[number].needs]
            counts[number] = said[number] and all(needed)
        return counts[number]

    return {number: holds(number, ()) for number in by_number}


def question_image(image: Image.Image, questions: Sequence[DPGQuestion], ask: Ask) -> Answers:
    """Ask all questions about one image. Raises DataError without questions."""
    if not questions:
        raise DataError("A prompt has no questions: use the dpg_bench.csv that belongs to the prompts.")
    return answered(questions, {question.number: bool(ask(image, question.text)) for question in questions})


def answered(questions: Sequence[DPGQuestion], said: Mapping[int, bool]) -> Answers:
    """Score an image's answers. Raises DataError if one is missing."""
    if missing := [question.number for question in questions if question.number not in said]:
        raise DataError(f"Question {missing[0]} was not answered: the questions have changed; start again.")
    return Answers(dict(said), _mean(list(valid(questions, said).values())))


def summarise(results: Sequence[tuple[str, Sequence[DPGQuestion], Answers]]) -> dict[str, float]:
    """Return figures from 0 to 100 over all images' (prompt's name, questions, answers).

    `overall`: mean over prompts of the mean over their images. Further, by kind of question ("entity",
    "attribute", "relation", ...), the share of yes as it was said, whatever it depends on: so the published
    figures by category are counted.
    """
    by_prompt: dict[str, list[float]] = {}
    by_kind: dict[str, list[bool]] = {}
    for name, questions, answers in results:
        by_prompt.setdefault(name, []).append(answers.score)
        for question in questions:
            kind = question.category.split("-")[0].strip() or "other"
            by_kind.setdefault(kind, []).append(answers.said[question.number])
    overall = _mean([_mean(scores) for scores in by_prompt.values()])
    return {"overall": 100 * overall, **{kind: 100 * _mean(by_kind[kind]) for kind in sorted(by_kind)}}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
