"""Tables of the library datasets: which column is trained on, and which columns and splits are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sanakit.data.read.captions import Caption
from sanakit.data.read.huggingface import TableSource
from sanakit.data.read.open import open_source

datasets = pytest.importorskip("datasets")


def table(columns: dict[str, Any], *images: str) -> Any:
    """Make a table of one row; texts of `images` are contents of files in columns of images."""
    rows = {
        name: [{"bytes": value.encode(), "path": None} if name in images else value]
        for name, value in columns.items()
    }
    made = datasets.Dataset.from_dict(rows)
    for name in images:
        made = made.cast_column(name, datasets.Image())
    return made


@pytest.mark.parametrize(
    ("columns", "images", "taken"),
    [
        ({"mask": "m", "image": "i", "text": "a fox"}, ("mask", "image"), b"i"),
        ({"conditioning_image": "c", "text": "a fox", "image": "i"}, ("conditioning_image", "image"), b"i"),
        ({"mask": "m", "image": {"bytes": b"i", "path": None}, "text": "a fox"}, ("mask",), b"i"),
        ({"depth": "d", "jpg": "j", "text": "a fox"}, ("depth", "jpg"), b"j"),
        ({"png": "p", "image": "i", "text": "a fox"}, ("png", "image"), b"i"),
        ({"photo": "p", "image": "p.jpg", "text": "a fox"}, ("photo",), b"p"),
        ({"first": "1", "second": "2", "text": "a fox"}, ("first", "second"), b"1"),
    ],
)
def test_of_several_columns_the_image_is_taken_and_the_others_are_named(
    columns: dict[str, Any], images: tuple[str, ...], taken: bytes
) -> None:
    source = TableSource(table(columns, *images), "set")
    assert source.read(0) == taken
    assert source.captions(0) == (Caption("a fox"),)
    (other,) = source.ignored
    named = columns[other.removeprefix("column ")]
    assert named != taken.decode()
    assert "is not used: the images are those of" in source.ignored[other]
    assert "rename both columns, this one to 'image'" in source.ignored[other]


def test_columns_without_captions_are_named() -> None:
    source = TableSource(
        table({"image": "i", "text": "a fox", "label": 3, "Caption": "lost"}, "image"), "set"
    )
    assert set(source.ignored) == {"column label", "column Caption"}


def test_the_other_splits_are_named_and_an_empty_one_is_not_replaced(tmp_path: Path) -> None:
    one = table({"image": "i", "text": "a fox"}, "image")
    datasets.DatasetDict({"test": one, "train": one}).save_to_disk(tmp_path / "two")
    (tmp_path / "two" / "loose.jpg").write_bytes(b"x")
    assert open_source(tmp_path / "two").ignored == {
        "split test": "is not used: the split 'train' is",
        "loose.jpg": "is not a part of the data set",
    }
    splits = datasets.DatasetDict({"test": one, "train": one.select([])})
    splits.save_to_disk(tmp_path / "empty")
    with pytest.raises(Exception, match="holds no images"):
        open_source(tmp_path / "empty")


def test_files_beside_tables_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    place = tmp_path / "tables"
    (place / ".hidden").mkdir(parents=True)
    (place / ".hidden" / "old.parquet").write_bytes(b"not a table")
    table({"image": "i", "text": "a fox"}, "image").to_parquet(place / "rows.PARQUET")
    (place / "README.md").write_text("about")
    source = open_source(place)
    assert source.read(0) == b"i"
    assert source.ignored == {"README.md": "is not a part of the data set"}
