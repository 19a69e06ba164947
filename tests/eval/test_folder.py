"""Prompts and images as benchmarks lay them out, and which belongs to which."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.data.read.decode import decode
from sanakit.errors import DataError
from sanakit.eval.cases import Case, read_cases, write_cases
from sanakit.eval.folder import (
    clip_pixels,
    count_note,
    list_images,
    middle_square,
    pixels,
    read_image,
    shown_in,
)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)
    return path


def test_genevals_rows_are_numbered_and_keep_their_tasks(tmp_path: Path) -> None:
    row = {"tag": "counting", "include": [{"class": "cup", "count": 2}], "prompt": "a photo of two cups"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n\n" + json.dumps({**row, "prompt": "x"}) + "\n")
    (tmp_path / "m.jsonl").rename(tmp_path / "M.JSONL")  # suffixes count in any case
    cases = read_cases(tmp_path / "M.JSONL")
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


def prompts_of(folder: Path, cases: list[Case]) -> dict[str, str]:
    """The prompt of each image that is measured."""
    shown = shown_in(folder, cases)
    return {one.path.relative_to(folder).as_posix(): one.case.prompt for one in shown if one.case}


def test_pictures_of_a_file_of_prompts_are_found_by_the_names_that_generate_gives_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.txt"
    path.write_text("# three\n\na red apple\n12 cats\n...\n")
    cases = read_cases(path)
    assert [case.name for case in cases] == ["00000", "00001", "00002"]
    for name in ("00001-a-red-apple-1", "00001-a-red-apple-2", "00002-12-cats", "00003"):
        picture(tmp_path / f"{name}.png")
    expected = {"00001-a-red-apple-1.png": "a red apple", "00001-a-red-apple-2.png": "a red apple"}
    assert prompts_of(tmp_path, cases) == expected | {"00002-12-cats.png": "12 cats", "00003.png": "..."}
    assert [case.generated for case in read_cases(path, 2)] == ["00001-a-red-apple", "00002-12-cats"]


def test_rows_of_objects_have_the_names_that_generate_gives_them(tmp_path: Path) -> None:
    rows = [{"prompt": "a fox"}, {"prompt": "b", "name": "Fox (new).png"}, {"prompt": "an owl", "name": None}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cases = read_cases(tmp_path / "p.jsonl")
    assert [case.name for case in cases] == ["00000", "Fox (new)", "00002"]
    for name in ("00001-a-fox.png", "Fox (new).png", "00003-an-owl.png"):
        picture(tmp_path / name)
    assert list(prompts_of(tmp_path, cases).values()) == ["a fox", "an owl", "b"]


def test_numbers_from_0_and_from_1_are_told_apart_by_the_manifest_or_not_at_all(tmp_path: Path) -> None:
    """00001.png is the second image counted from 0, and of a prompt without words the first from 1."""
    (tmp_path / "p.txt").write_text("...\na fox\n")
    cases = read_cases(tmp_path / "p.txt")
    for name in ("00001.png", "00002-a-fox.png"):
        picture(tmp_path / name)
    with pytest.raises(DataError, match=r"00001\.png may be an image of '00000' or of '00001'"):
        shown_in(tmp_path, cases)
    rows = [{"file": "00001.png", "prompt": "..."}, {"file": "00002-a-fox.png", "prompt": "a fox"}]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert prompts_of(tmp_path, cases) == {"00001.png": "...", "00002-a-fox.png": "a fox"}
    picture(tmp_path / "geneval" / "00001" / "samples" / "0000.png")
    picture(tmp_path / "geneval" / "00000" / "samples" / "0000.png")
    assert list(prompts_of(tmp_path / "geneval", cases).values()) == ["...", "a fox"]


CAT, FIRST = Case("cat", "a cat"), Case("cat-1", "a cat, first of its name")


@pytest.mark.parametrize(
    ("names", "of_cat"),
    [
        (["cat", "cat-1"], ["cat"]),
        (["cat-1", "cat-2", "cat-1-1", "cat-1-2"], ["cat-1", "cat-2"]),
        (["cat-1", "cat-1_0001"], ["cat-1"]),
    ],
)
def test_a_number_in_a_name_belongs_to_whom_the_other_files_say(
    tmp_path: Path, names: list[str], of_cat: list[str]
) -> None:
    for name in names:
        picture(tmp_path / f"{name}.png")
    found = prompts_of(tmp_path, [CAT, FIRST])
    assert {f"{name}.png" for name in of_cat} == {name for name, prompt in found.items() if prompt == "a cat"}
    assert len(found) == len(names)


@pytest.mark.parametrize("names", [["cat-1"], ["cat-1", "cat-2"], ["cat", "cat-1", "cat-1-1"]])
def test_a_picture_that_may_be_of_two_prompts_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        picture(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match=r"cat-1\.png may be an image of 'cat-1' or of 'cat': rename"):
        shown_in(tmp_path, [CAT, FIRST])
    rows = [{"file": f"{name}.png", "prompt": "a cat"} for name in names]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert shown_in(tmp_path, [CAT])[-1].case == CAT


def test_prompts_with_other_numbers_of_pictures_than_the_rest_are_told(tmp_path: Path) -> None:
    cases = [Case(name, f"a {name}") for name in ("ape", "bee", "cow")]
    for name in ("ape-1", "ape-2", "bee", "cow-1", "cow-2"):
        picture(tmp_path / f"{name}.png")
    shown = shown_in(tmp_path, cases)
    assert "Not all prompts have 2 images: bee (1)." in count_note(shown, None)
    assert count_note(shown[:2], 2) == ""
    assert "Not all prompts have 4 images: ape (2), bee (1), cow (2)." in count_note(shown, 4)
    assert "one image: ape (2), cow (2)." in count_note(shown, 1)


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


def test_a_prompt_beside_its_picture_is_the_first_line_as_an_editor_shows_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_bytes("\ufeff\r\n a bee\u2028asleep \rin two lines\n".encode())
    (tmp_path / "b.txt").write_text(" \n\n")
    assert [one.case and one.case.prompt for one in shown_in(tmp_path)] == ["a bee\u2028asleep", None, None]
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"c\.txt cannot be read.*UTF-8"):
        shown_in(tmp_path)


def test_a_manifest_of_odd_prompts_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    row = json.dumps({"file": "a.png", "prompt": "a\u2028b\x85c"}, ensure_ascii=False)
    (tmp_path / "manifest.jsonl").write_text(f"{row}\n", encoding="utf-8")
    assert [one.case.prompt for one in shown_in(tmp_path) if one.case] == ["a\u2028b\x85c"]


def test_cases_keep_odd_characters_and_pipes_are_refused(tmp_path: Path, fifo: Path) -> None:
    cases = [Case("a", "a\u2028b\x85c"), Case("b", "a dog")]
    write_cases(tmp_path / "p.jsonl", cases, num_images=[1, 1])
    assert len((tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert [case.prompt for case in read_cases(tmp_path / "p.jsonl")] == ["a\u2028b\x85c", "a dog"]
    with pytest.raises(DataError, match=r"fifo\.txt cannot be read \(it is a pipe"):
        read_cases(fifo)


def test_pictures_are_read_as_for_training(tmp_path: Path) -> None:
    hidden = Image.new("RGBA", (4, 4), (10, 200, 30, 0))
    hidden.save(tmp_path / "alpha.png")
    Image.fromarray(np.full((4, 4), 128 * 256 + 7, dtype=np.uint16)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((4, 4), 128 * 256 + 7, dtype=np.uint16)).save(tmp_path / "grey.tif")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.bmp")
    found = list_images(tmp_path)
    assert [path.name for path in found] == ["alpha.png", "grey.png", "grey.tif", "red.bmp"]
    colours = [(255, 255, 255), (128, 128, 128), (128, 128, 128), (255, 0, 0)]
    for path, colour in zip(found, colours, strict=True):
        assert np.asarray(read_image(path)).tolist() == [[list(colour)] * 4] * 4
        trained = decode(path.read_bytes(), 4, 4)
        assert torch.equal(trained, torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 4, 4))


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
