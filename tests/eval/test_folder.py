"""Prompts and images as benchmarks lay them out, and which belongs to which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sanakit.errors import DataError
from sanakit.eval.cases import Case, read_cases
from sanakit.eval.folder import clip_pixels, list_images, middle_square, pixels, read_image, shown_in


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)
    return path


def test_genevals_rows_are_numbered_and_keep_their_tasks(tmp_path: Path) -> None:
    row = {"tag": "counting", "include": [{"class": "cup", "count": 2}], "prompt": "a photo of two cups"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n\n" + json.dumps({**row, "prompt": "x"}) + "\n")
    cases = read_cases(tmp_path / "m.jsonl")
    assert [(case.name, case.prompt) for case in cases] == [("00000", "a photo of two cups"), ("00001", "x")]
    assert cases[0].task["include"] == row["include"]


def test_mjhqs_table_and_dpgs_folder_name_their_prompts(tmp_path: Path) -> None:
    (tmp_path / "meta_data.json").write_text(json.dumps({"ab12": {"category": "food", "prompt": "a pie"}}))
    assert read_cases(tmp_path / "meta_data.json") == [
        Case("ab12", "a pie", {"category": "food", "prompt": "a pie"})
    ]
    for name in ("10", "2", "partiprompts7"):
        (tmp_path / f"{name}.txt").write_text(f"prompt {name}\n")
    assert [(case.name, case.prompt) for case in read_cases(tmp_path)] == [
        ("2", "prompt 2"),
        ("10", "prompt 10"),
        ("partiprompts7", "prompt partiprompts7"),
    ]


def test_a_limit_takes_prompts_from_everywhere(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# comment\n" + "".join(f"prompt {i}\n" for i in range(100)))
    assert [case.prompt for case in read_cases(tmp_path / "p.txt", 4)] == [
        f"prompt {i}" for i in (0, 25, 50, 75)
    ]
    assert len(read_cases(tmp_path / "p.txt", 1000)) == 100


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "line 2"),
        ("p.jsonl", '{"prompt": "a", "name": "../x"}', "cannot be a file name"),
        ("p.jsonl", '{"prompt": "a", "name": "x"}\n{"prompt": "b", "name": "X"}', "twice"),
        ("p.jsonl", '{"prompt": ""}', "not a text"),
        ("p.json", "[1]", "meta_data"),
        ("p.txt", "# nothing\n", "holds no prompt"),
        ("p.csv", "prompt\na\n", r"give a \.txt"),
    ],
)
def test_faulty_prompts_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_cases(tmp_path / name)


def test_pictures_find_their_prompts_by_the_beginning_of_their_names(tmp_path: Path) -> None:
    cases = [Case("cat", "a cat"), Case("cat-2", "two cats"), Case("00001", "a dog")]
    names = ("cat.png", "cat-1.png", "cat-2.png", "other.png", "00001/samples/00000.png", "00001/grid.png")
    for name in names:
        picture(tmp_path / name)
    found = {
        one.path.relative_to(tmp_path).as_posix(): one.case.prompt
        for one in shown_in(tmp_path, cases)
        if one.case
    }
    assert found == {
        "cat.png": "a cat",
        "cat-1.png": "a cat",
        "cat-2.png": "two cats",
        "00001/samples/00000.png": "a dog",
    }


def test_a_prompt_without_a_picture_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "cat.png")
    with pytest.raises(DataError, match="1 of 2 prompts, among them dog"):
        shown_in(tmp_path, [Case("cat", "a cat"), Case("dog", "a dog")])


def test_without_a_file_of_prompts_the_folder_says_what_is_shown(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.webp"):
        picture(tmp_path / name)
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"file": "a.png", "prompt": "an ape"}) + "\n")
    (tmp_path / "b.txt").write_text("a bee\n")
    shown = shown_in(tmp_path)
    assert [one.case.prompt if one.case else None for one in shown] == ["an ape", "a bee", None]


def test_a_folder_without_pictures_and_a_broken_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        list_images(tmp_path / "missing")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_the_middle_square_is_kept() -> None:
    image = Image.new("RGB", (300, 100), "blue")
    image.paste("red", (100, 0, 200, 100))
    square = pixels(middle_square(image, 50))
    assert square.shape == (3, 50, 50)
    assert (square[0, :, 3:-3] > 0.9).all()
    assert pixels(image).shape == (3, 100, 300)


def test_clips_pixels_are_normalised() -> None:
    values = clip_pixels(Image.new("RGB", (5, 5), (0, 0, 255)), 4)
    expected = torch.tensor(
        [-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, (1 - 0.40821073) / 0.27577711]
    )
    torch.testing.assert_close(values[:, 2, 2], expected)
