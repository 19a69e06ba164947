"""Files of prompts: what a row may say, what it is called, which seed it draws from, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from sanakit.errors import SettingsError
from sanakit.pipelines.prompt_file import PromptImage, read_prompts
from sanakit.pipelines.request import ModelSpec, check_request
from sanakit.weights.settings import ModelSettings

SPEC = ModelSpec(
    settings=ModelSettings(name="tiny", steps=3, guidance=3.0, width=96, height=64),
    latent_channels=8,
    sample_size=4,
    compression=32,
)


def read(path: Path, content: str | bytes, **defaults) -> list[PromptImage]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_prompts(path, partial(check_request, SPEC), **defaults)


def refusal(path: Path, content: str | bytes, **defaults) -> str:
    with pytest.raises(SettingsError) as caught:
        read(path, content, **defaults)
    return str(caught.value)


def files(pictures: list[PromptImage]) -> list[str]:
    return [picture.file for picture in pictures]


def column(pictures: list[PromptImage], name: str) -> list[object]:
    return [picture.metadata[name] for picture in pictures]


def test_a_text_is_one_prompt_a_line_without_comments_and_empty_lines(tmp_path: Path) -> None:
    pictures = read(tmp_path / "a.txt", "\ufeff# fruit\r\n\r\n  a red apple \r\na #1 fox\n")
    assert column(pictures, "prompt") == ["a red apple", "a #1 fox"]
    assert files(pictures) == ["00001-a-red-apple.png", "00002-a-1-fox.png"]
    assert [picture.line for picture in pictures] == [3, 4]


def test_a_line_of_a_text_ends_where_an_editor_ends_it(tmp_path: Path) -> None:
    pictures = read(tmp_path / "a.txt", "a fox\u2028asleep\ran\x85owl\r\na dog\x0b\x1c\u2029 barks\n")
    assert column(pictures, "prompt") == ["a fox\u2028asleep", "an\x85owl", "a dog\x0b\x1c\u2029 barks"]
    (row,) = read(tmp_path / "a.jsonl", '{"prompt": "a fox\u2028asleep"}\n')
    assert row.metadata["prompt"] == "a fox\u2028asleep"


def test_a_pipe_is_refused_at_once(fifo: Path) -> None:
    with pytest.raises(SettingsError, match=r"fifo.txt cannot be read \(it is a pipe"):
        read_prompts(fifo, partial(check_request, SPEC))


def test_a_row_without_settings_takes_the_callers_then_the_models_own(tmp_path: Path) -> None:
    (picture,) = read(tmp_path / "a.txt", "a fox", steps=5, negative_prompt="blue")
    expected = {"steps": 5, "negative_prompt": "blue", "guidance": 3.0, "width": 96, "height": 64}
    assert expected.items() <= picture.metadata.items()
    assert {"solver": "dpm", "model": "tiny", "seed": 0}.items() <= picture.metadata.items()


ROW = {"prompt": 'a, "b"\nc', "negative_prompt": "d", "size": "64x96", "steps": 7, "guidance": 1.5}
ROW |= {"seed": 11, "solver": "euler", "num_images": 2, "name": "My picture"}
TABLE = 'prompt,negative_prompt,size,steps,guidance,seed,solver,num_images,name\n"a, ""b""\nc",d,64x96,7,1.5,'
CONTENTS = {"a.jsonl": json.dumps(ROW), "a.csv": TABLE + "11,euler,2,My picture\n"}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_row_says_everything_about_its_pictures(tmp_path: Path, name: str) -> None:
    pictures = read(tmp_path / name, CONTENTS[name], steps=5, width=128)
    assert files(pictures) == ["My picture-1.png", "My picture-2.png"]
    assert column(pictures, "seed") == [11, 12]
    asked = {"prompt": 'a, "b"\nc', "negative_prompt": "d", "width": 64, "height": 96, "steps": 7}
    asked |= {"guidance": 1.5, "solver": "euler"}
    assert asked.items() <= pictures[1].metadata.items()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"prompt": "a fox", "steps": null, "name": null}\n\n'),
        ("a.csv", "prompt,steps,name\n,,\na fox,,\n"),
    ],
)
def test_null_and_an_empty_cell_are_the_default(tmp_path: Path, name: str, content: str) -> None:
    (picture,) = read(tmp_path / name, content, steps=5)
    assert picture.metadata["steps"] == 5
    assert picture.file == "00001-a-fox.png"


def test_a_seed_depends_on_the_rows_number_alone(tmp_path: Path) -> None:
    lines = ['{"prompt": "a"}', '{"prompt": "b", "seed": 7}', '{"prompt": "c"}']
    pictures = read(tmp_path / "a.jsonl", "\n".join(lines), seed=100, num_images=2)
    assert column(pictures, "seed") == [100, 101, 7, 8, 102, 103]


def test_rows_added_at_the_end_change_nothing_before_them(tmp_path: Path) -> None:
    before = read(tmp_path / "a.txt", "a\nb\n")
    assert read(tmp_path / "a.txt", "a\nb\nc\n")[:2] == before


def test_a_name_is_made_of_a_prompt_in_any_script(tmp_path: Path) -> None:
    prompts = ["Ein GRÜNER Apfel", "苹果在桌子上", "../../etc/passwd", "...", "x" * 500, "a\tb"]
    pictures = read(tmp_path / "a.txt", "\n".join(prompts))
    assert files(pictures)[:4] == [
        *("00001-ein-grüner-apfel.png", "00002-苹果在桌子上.png"),
        *("00003-etc-passwd.png", "00004.png"),
    ]
    assert files(pictures)[4:] == [f"00005-{'x' * 40}.png", "00006-a-b.png"]


def test_a_name_may_end_in_png(tmp_path: Path) -> None:
    content = '{"prompt": "a", "name": "v1.5 (new).png"}'
    assert files(read(tmp_path / "a.jsonl", content)) == ["v1.5 (new).png"]


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", "C:a", ".hidden", "-rf", " a", "a ", "a."),
        *("a\0b", "a\nb", "CON", "nul.txt", "com1", "é" * 150, "a" * 300, "a:b", "a*", "\ud800"),
    ],
)
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path: Path, name: str) -> None:
    sentence = refusal(tmp_path / "a.jsonl", json.dumps({"prompt": "a", "name": name}))
    assert "plain file name" in sentence


@pytest.mark.parametrize(
    ("first", "second"),
    [("fox", "fox"), ("Fox", "fox.png"), ("é", "e\u0301"), ("00002-b", None)],
)
def test_two_rows_with_one_name_are_refused(tmp_path: Path, first: str, second: str | None) -> None:
    rows = [{"prompt": "a", "name": first}, {"prompt": "b", "name": second}]
    assert "by line 1" in refusal(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("row", "naming"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ('"a fox"', "not a JSON object"),
        ("{}", '"prompt" is missing'),
        ('{"prompt": 5}', "must be text"),
        ('{"prompt": "a", "seed": 1, "seed": 2}', "it says 'seed' twice"),
        ('{"prompt": "a", "promt": 1}', "'promt'"),
        ('{"prompt": "a", "steps": 2.5}', "steps"),
        ('{"prompt": "a", "steps": true}', "steps"),
        ('{"prompt": "a", "steps": "many"}', "steps"),
        ('{"prompt": "a", "guidance": NaN}', "guidance"),
        ('{"prompt": "a", "guidance": "4"}', "guidance"),
        ('{"prompt": "a", "seed": -1}', "seed"),
        ('{"prompt": "a", "num_images": 1000}', "num_images"),
        ('{"prompt": "a", "solver": "magic"}', "magic"),
        ('{"prompt": "a", "size": "big"}', "big"),
        ('{"prompt": "a", "size": "64x65"}', "64x65"),
        ('{"prompt": "a", "size": "64", "width": 64}', "size"),
        ('{"prompt": "a", "width": "64"}', "'64'"),
        ('{"prompt": "\\ud800"}', "surrogate"),
        ('{"prompt": "\\u0000"}', "NUL"),
    ],
)
def test_a_faulty_row_is_named_with_its_line(tmp_path: Path, row: str, naming: str) -> None:
    sentence = refusal(tmp_path / "a.jsonl", f'{{"prompt": "fine"}}\n{row}\n')
    assert "Line 2: " in sentence
    assert naming in sentence
    assert len(sentence) < 500


@pytest.mark.parametrize(
    ("content", "naming"),
    [
        ("", 'no column "prompt"'),
        ("text\na fox\n", 'no column "prompt"'),
        ("prompt;steps\na fox;5\n", 'no column "prompt"'),
        ("prompt,prompt\na,b\n", "twice"),
        ("prompt,colour\na,b\n", "'colour'"),
        ("prompt,steps\na fox\n", "Line 2: it has 1 cells"),
        ("prompt,steps\na, b, 5\n", "3 cells for 2"),
        ("prompt,steps\n,5\n", 'Line 2: "prompt" is empty'),
        ("prompt,steps\na,five\n", "Line 2: steps = 'five'"),
        ('prompt\n"a fox\n', "quote"),
        ("prompt\n" + "a" * 200_000, "field"),
    ],
)
def test_a_faulty_table_is_refused(tmp_path: Path, content: str, naming: str) -> None:
    assert naming in refusal(tmp_path / "a.csv", content)


def test_all_faulty_rows_are_counted_and_the_first_ones_told(tmp_path: Path) -> None:
    sentence = refusal(tmp_path / "a.jsonl", '{"steps": 1}\n' * 9 + '{"prompt": "a"}')
    assert "9 faulty rows" in sentence
    assert "And 6 more." in sentence


def test_a_faulty_default_is_told_once(tmp_path: Path) -> None:
    sentence = refusal(tmp_path / "a.txt", "a\nb\n", steps=0)
    assert "steps" in sentence
    assert "Line" not in sentence


@pytest.mark.parametrize(
    ("name", "content", "naming"),
    [
        ("a.txt", "", "no prompt"),
        ("a.txt", "# nothing\n\n", "no prompt"),
        ("a.csv", "prompt\n", "no prompt"),
        ("a.txt", b"a fox\n\xff\xfe", "line 2"),
        ("a.docx", "a fox", ".jsonl"),
        ("a", "a fox", ".jsonl"),
    ],
)
def test_a_file_without_prompts_is_refused(
    tmp_path: Path, name: str, content: str | bytes, naming: str
) -> None:
    assert naming in refusal(tmp_path / name, content)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    for name in ("missing.txt", "folder.txt", "a" * 300 + ".txt"):
        with pytest.raises(SettingsError, match="cannot be read"):
            read_prompts(tmp_path / name, partial(check_request, SPEC))
