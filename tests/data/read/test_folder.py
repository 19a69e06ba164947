"""A folder of images: tables, suffixes in any case, and the files that nothing is read from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sanakit.data.read.captions import Caption
from sanakit.data.read.open import open_source
from sanakit.errors import DataError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("fox.jpg", "owl.JPG"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def captions(place: Path) -> list[tuple[Caption, ...]]:
    source = open_source(place)
    return [source.captions(index) for index in range(len(source))]


def test_one_blank_text_with_a_score_does_not_refuse_the_set(place: Path) -> None:
    (place / "metadata.csv").write_text("file_name,text,score\nfox.jpg,,31.0\nowl.JPG,an owl,30.5\n")
    assert captions(place) == [(), (Caption("an owl", 30.5),)]


@pytest.mark.parametrize("name", ["metadata.csv", "METADATA.CSV"])
def test_tables_are_found_in_any_case_and_names_of_columns_may_have_spaces(place: Path, name: str) -> None:
    (place / name).write_text("\ufefffile_name, text\nfox.jpg,a fox\n\n,\nowl.JPG\n", encoding="utf-8")
    assert captions(place) == [(Caption("a fox"),), ()]
    assert open_source(place).ignored == {}


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0c"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_only_line_ends_end_a_row(place: Path, kind: str, sign: str) -> None:
    text = f"a fox{sign}in snow"
    row = json.dumps({"file_name": "fox.jpg", "text": text}, ensure_ascii=False)
    content = f"{row}\n" if kind == "jsonl" else f"file_name,text\nfox.jpg,{text}\n"
    (place / f"metadata.{kind}").write_text(content, encoding="utf-8")
    assert captions(place) == [(Caption(text),), ()]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_without_captions_are_named_once(place: Path, kind: str) -> None:
    rows = [
        {"file_name": "fox.jpg", "text": "a fox", "width": 3, "Caption": "lost"},
        {"file_name": "owl.JPG", "text": "an owl", "width": 4, "Caption": "lost too"},
    ]
    table = place / f"metadata.{kind}"
    if kind == "csv":
        table.write_text("file_name,text,width,Caption\nfox.jpg,a fox,3,lost\nowl.JPG,an owl,4,lost too\n")
    elif kind == "jsonl":
        table.write_text("\n".join(map(json.dumps, rows)))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), table)
    ignored = open_source(place).ignored
    assert set(ignored) == {f"metadata.{kind}: column width", f"metadata.{kind}: column Caption"}
    assert all(reason.startswith("is not used: captions are read from") for reason in ignored.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file_name,text\nfox.jpg,a red, furry fox\n", "line 2, has 3 cells for 2 columns: put texts with"),
        ('file_name,text\nfox.jpg,"a fox\nowl.JPG,an owl\n', "metadata.csv cannot be read"),
        ("file_name,text,text\nfox.jpg,a,b\n", "names the column 'text' twice"),
    ],
)
def test_rows_that_would_lose_a_part_of_their_caption_are_refused(
    place: Path, content: str, message: str
) -> None:
    (place / "metadata.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_source(place)


def test_a_row_of_json_that_names_a_column_twice_is_refused(place: Path) -> None:
    (place / "metadata.jsonl").write_text('{"file_name": "fox.jpg", "text": "a fox", "text": "an owl"}\n')
    with pytest.raises(DataError, match="it says 'text' twice"):
        open_source(place)


def test_a_sidecar_of_a_folder_below_is_named(place: Path) -> None:
    (place / "deep").mkdir()
    (place / "deep" / "captions.jsonl").write_text('{"key": "fox.jpg", "captions": [{"text": "a fox"}]}\n')
    assert "in the data set's own folder" in open_source(place).ignored["deep/captions.jsonl"]
