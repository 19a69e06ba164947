"""Trees of questions whose answers are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sanakit.errors import DataError
from sanakit.eval.benchmarks.dpg import (
    DPGQuestion,
    answered,
    question_image,
    read_questions,
    summarise,
    valid,
)

CHAIR = [
    DPGQuestion(1, "Is there a chair?", "entity - whole"),
    DPGQuestion(2, "Is the chair red?", "attribute - color", (1,)),
    DPGQuestion(3, "Is there a cat?", "entity - whole"),
    DPGQuestion(4, "Is the cat on the red chair?", "relation - spatial", (2, 3)),
]
HEAD = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
)
PICTURE = Image.new("RGB", (4, 4))


@pytest.mark.parametrize(
    ("no", "score"),
    [
        (set(), 1),
        ({4}, 3 / 4),
        ({2}, 2 / 4),  # 4 needs it
        ({1}, 1 / 4),  # 2 needs it, 4 needs 2
        ({3}, 2 / 4),
        ({1, 3}, 0),
    ],
)
def test_a_yes_counts_only_where_all_it_depends_on_is_yes(no: set[int], score: float) -> None:
    said = {question.number: question.number not in no for question in CHAIR}
    assert answered(CHAIR, said).score == pytest.approx(score)


def test_the_order_of_questions_does_not_matter() -> None:
    said = {1: False, 2: True, 3: True, 4: True}
    assert valid(CHAIR[::-1], said) == valid(CHAIR, said) == {1: False, 2: False, 3: True, 4: False}


def test_every_question_is_asked_about_the_picture() -> None:
    asked: list[str] = []

    def ask(image: Image.Image, question: str) -> bool:
        assert image is PICTURE
        asked.append(question)
        return "cat" not in question

    answers = question_image(PICTURE, CHAIR, ask)
    assert asked == [question.text for question in CHAIR]
    assert answers.said == {1: True, 2: True, 3: False, 4: False}
    assert answers.score == 0.5


def test_prompts_count_alike_however_many_pictures_they_have() -> None:
    yes, no = ({number: value for number in range(1, 5)} for value in (True, False))
    rows = [("a", CHAIR, answered(CHAIR, yes))] + [("b", CHAIR, answered(CHAIR, no))] * 3
    assert summarise(rows)["overall"] == pytest.approx(50)


def test_kinds_of_questions_count_answers_as_they_were_said() -> None:
    said = {1: False, 2: True, 3: True, 4: True}  # the red is void, but was seen
    found = summarise([("a", CHAIR, answered(CHAIR, said))])
    assert found == pytest.approx({"overall": 25, "attribute": 100, "entity": 50, "relation": 100})


def test_the_published_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "dpg.csv").write_text(
        HEAD
        + "item,text,keywords,id,dependency,broad,detailed,tuple,question\n"  # a second heading
        + '7,"A red chair, alone",,1,0,entity,whole,entity - whole (chair),Is there a chair?\n'
        + '7,,,2,1,attribute,color,"attribute - color (chair, red)",Is the chair red?\n'
        + 'note,,,1,"0",relation,spatial,relation - spatial (x),Is it there?\n'
    )
    questions = read_questions(tmp_path / "dpg.csv")
    assert questions["7"] == CHAIR[:2]
    assert list(questions) == ["7", "note"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("7,,,1,5,,,entity,Is it?\n", "question 5, which is missing"),
        ("7,,,1,2,,,entity,Is it?\n7,,,2,1,,,entity,Is it?\n", "depends on itself"),
        ("7,,,1,one,,,entity,Is it?\n", "cannot be read"),
    ],
)
def test_a_table_that_is_wrong_is_named(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "dpg.csv").write_text(HEAD + rows)
    with pytest.raises(DataError, match=message) as error:
        read_questions(tmp_path / "dpg.csv")
    assert "dpg.csv" in str(error.value)


def test_another_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "dpg.csv").write_text("item_id,text\n1,a\n")
    with pytest.raises(DataError, match="lacks the column dependency"):
        read_questions(tmp_path / "dpg.csv")


def test_answers_to_other_questions_are_refused() -> None:
    with pytest.raises(DataError, match="Question 4 was not answered"):
        answered(CHAIR, {1: True, 2: True, 3: True})


def test_a_pipe_is_refused_at_once(fifo: Path) -> None:
    with pytest.raises(DataError, match=r"fifo\.txt cannot be read"):
        read_questions(fifo)
