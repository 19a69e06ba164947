"""Places that hold images: folders, shards, Hugging Face data sets, and what is none of these."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from sanakit.data.read.captions import Caption
from sanakit.data.read.open import check_apart, expand, open_source
from sanakit.data.read.sidecar import SidecarWriter
from sanakit.data.read.source import Source
from sanakit.errors import DataError, MissingExtraError


def keys(source: Source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def texts(source: Source, key: str) -> list[str]:
    return [caption.text for caption in source.captions(keys(source).index(key))]


def write_tar(path: Path, members: dict[str, bytes], file_format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=file_format) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_folder_gives_its_pictures_sorted_with_the_captions_beside_them(folder: Path) -> None:
    source = open_source(folder)
    assert keys(source) == sorted(keys(source))
    assert len(source) == 14
    assert texts(source, "deep/er/02.jpg") == ["picture 2", "another 2"]
    assert source.ignored == {"notes.doc": "is not an image (.doc)"}
    assert source.read(0) == (folder / "00.jpg").read_bytes()
    with source.open(0) as file:
        assert file.read() == source.read(0)


def test_pipes_and_links_to_folders_are_named_and_not_waited_for(tmp_path: Path, picture) -> None:
    (tmp_path / "fox.png").write_bytes(picture(8, 8))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "nowhere.png").symlink_to("missing.png")
    (tmp_path / "circle").symlink_to(".")
    source = open_source(tmp_path)
    assert keys(source) == ["fox.png", "nowhere.png"]
    assert set(source.ignored) == {"pipe.png", "link.png", "circle"}


def test_pictures_beside_shards_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"fox.jpg": b"x"})
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "apple.JPG").write_bytes(b"x")
    with pytest.raises(DataError, match=r"both shards \(a\.tar\) and images \(deep/apple\.JPG\)"):
        open_source(tmp_path)
    assert keys(open_source(tmp_path / "*.tar")) == ["a.tar:fox.jpg"]


@pytest.mark.parametrize("output", ["pictures", "pictures/runs/mine", "beside/../pictures/mine"])
def test_a_run_does_not_write_among_its_pictures(tmp_path: Path, output: str) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "beside").mkdir()
    with pytest.raises(DataError, match="choose an --output beside it"):
        check_apart(tmp_path / "pictures", tmp_path / output)
    check_apart(tmp_path / "pictures", tmp_path / "pictures-run")
    check_apart("hub:organisation/name", tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('"a fox"', [Caption("a fox")]),
        ('["a fox", " ", "a red fox", "a fox"]', [Caption("a fox"), Caption("a red fox")]),
        ('{"caption": "a fox", "width": 3}', [Caption("a fox")]),
        ('{"caption": ["a", "b"], "score": [30, null]}', [Caption("a", 30.0), Caption("b")]),
        (
            '{"captions": [{"text": "a", "score": 31.5, "source": "vila"}, "b"]}',
            [Caption("a", 31.5, "vila"), Caption("b")],
        ),
        ("{}", []),
    ],
)
def test_json_captions_come_in_many_forms(
    tmp_path: Path, picture, content: str, expected: list[Caption]
) -> None:
    (tmp_path / "fox.jpg").write_bytes(picture(8, 8))
    (tmp_path / "fox.json").write_text(content, encoding="utf-8")
    assert list(open_source(tmp_path).captions(0)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fox.json", b"{", "fox.json is not JSON"),
        ("fox.json", b'{"caption": ["a", "b"], "score": [3]}', "2 captions and 1 scores"),
        ("fox.json", b'{"caption": "a", "score": "good"}', "the score 'good'"),
        ("fox.json", b'{"caption": 7}', "7 instead of a caption"),
        ("fox.json", rb'{"caption": "\ud83d apple"}', "half a surrogate pair"),
        ("fox.json", b"[" * 600 + b"7" + b"]" * 600, "deeply nested"),
        ("fox.json", b"[" * 100_000, "fox.json is not JSON"),
        ("fox.txt", b"\xff\xfe\xff", "not UTF-8"),
    ],
)
def test_damaged_captions_are_named(tmp_path: Path, picture, name: str, content: bytes, message: str) -> None:
    (tmp_path / "fox.jpg").write_bytes(picture(8, 8))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path).captions(0)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_metadata_table_captions_the_folder_it_lies_in(tmp_path: Path, picture, kind: str) -> None:
    inner = tmp_path / "train"
    inner.mkdir()
    for name in ("fox.jpg", "owl.jpg", "cat.jpg"):
        (inner / name).write_bytes(picture(8, 8))
    rows = [
        {"file_name": "fox.jpg", "text": "a fox", "score": 31.0},
        {"file_name": "owl.jpg", "text": "an owl, “grey”", "score": 30.5},
        {"file_name": "gone.jpg", "text": "nothing", "score": 1.0},
    ]
    table = inner / f"metadata.{kind}"
    if kind == "jsonl":
        table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif kind == "csv":
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    source = open_source(tmp_path)
    assert keys(source) == ["train/cat.jpg", "train/fox.jpg", "train/owl.jpg"]
    assert [source.captions(index) for index in range(3)] == [
        (),
        (Caption("a fox", 31.0),),
        (Caption("an owl, “grey”", 30.5),),
    ]
    assert source.ignored == {"train/gone.jpg": f"is in train/metadata.{kind}, but not in the folder"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b"{]", "metadata.jsonl cannot be read"),
        ("metadata.jsonl", b"[" * 100_000, "metadata.jsonl cannot be read"),
        ("captions.jsonl", b"[" * 100_000 + b"\n{}", "line 1, is not a row of captions"),
        ("metadata.jsonl", b'{"text": "a fox"}', 'row 1, names no image: give each row a "file_name"'),
        ("metadata.parquet", b"PAR1 or not", "metadata.parquet cannot be read"),
    ],
)
def test_a_damaged_table_stops_at_once(
    tmp_path: Path, picture, name: str, content: bytes, message: str
) -> None:
    (tmp_path / "fox.jpg").write_bytes(picture(8, 8))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


def test_captions_jsonl_adds_captions_and_scores_to_any_place(folder: Path, tmp_path: Path) -> None:
    with SidecarWriter(folder / "captions.jsonl") as writer:
        writer.add("00.jpg", [Caption("picture 0", 29.0), Caption("two halves", 33.0, "vila")])
    expected = (Caption("picture 0", 29.0), Caption("another 0"), Caption("two halves", 33.0, "vila"))
    assert open_source(folder).captions(0) == expected

    shard = write_tar(tmp_path / "s.tar", {"fox.jpg": b"x"})
    with SidecarWriter(tmp_path / "captions.jsonl") as writer:
        writer.add("s.tar:fox.jpg", [Caption("a fox")])
    for place in (shard, tmp_path / "{s,s}.tar"):
        assert open_source(place).captions(0) == (Caption("a fox"),)


@pytest.mark.parametrize("file_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_give_back_what_was_put_in(tmp_path: Path, picture, file_format: int) -> None:
    long = "deep/" * 25 + "é"  # longer than a plain header holds
    if file_format == tarfile.USTAR_FORMAT:
        long = "deep/" * 25 + "e"
    first = {
        "a.jpg": picture(9, 8),
        "a.txt": b"one\ntwo",
        "a.json": b'{"caption": "three"}',
        "b.seg.png": picture(8, 9, file_format="PNG"),
        "b.seg.txt": b"four",
    }
    second = {f"{long}.jpg": picture(7, 7), f"{long}.txt": b"five", "lost.txt": b"six", "x.npy": b"seven"}
    write_tar(tmp_path / "part-000.tar", first, file_format)
    write_tar(tmp_path / "part-001.tar", second, file_format)
    source = pickle.loads(pickle.dumps(open_source(tmp_path)))
    assert keys(source) == ["part-000.tar:a.jpg", "part-000.tar:b.seg.png", f"part-001.tar:{long}.jpg"]
    assert [source.read(index) for index in range(3)] == [
        first["a.jpg"],
        first["b.seg.png"],
        second[f"{long}.jpg"],
    ]
    assert [[c.text for c in source.captions(index)] for index in range(3)] == [
        ["one", "two", "three"],
        ["four"],
        ["five"],
    ]
    assert source.ignored == {
        "part-001.tar:lost.txt": "is a caption without an image",
        "part-001.tar:x.npy": "is not an image (.npy)",
    }
    with source.open(1) as file:
        file.seek(-4, io.SEEK_END)
        tail = file.read()
        file.seek(2)
        assert (file.read(3), tail) == (first["b.seg.png"][2:5], first["b.seg.png"][-4:])


@pytest.mark.parametrize("pattern", ["part-{000..001}.tar", "part-*.tar", "{part-000,part-001}.tar"])
def test_patterns_name_several_shards(tmp_path: Path, pattern: str) -> None:
    for number in range(2):
        write_tar(tmp_path / f"part-00{number}.tar", {f"{number}.jpg": b"x"})
    assert keys(open_source(tmp_path / pattern)) == ["part-000.tar:0.jpg", "part-001.tar:1.jpg"]


def test_of_a_damaged_shard_what_lies_before_the_damage_is_used(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", {f"{number}.jpg": bytes(2000) for number in range(5)})
    content = whole.read_bytes()
    whole.write_bytes(content[:6000])  # the third image is cut off
    (tmp_path / "b.tar").write_bytes(b"no tar at all" * 100)
    source = open_source(tmp_path)
    assert keys(source) == ["a.tar:0.jpg", "a.tar:1.jpg"]
    assert "ends inside" in source.ignored["a.tar:2.jpg"]
    assert "not a tar file" in source.ignored["b.tar"]
    (tmp_path / "a.tar").unlink()
    with pytest.raises(DataError, match=r"b\.tar, is damaged or not a tar file"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz"])
def test_compressed_shards_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    shard = write_tar(tmp_path / "s.tar", {"fox.jpg": b"x"})
    (tmp_path / name).write_bytes(gzip.compress(shard.read_bytes()))
    shard.unlink()
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=r"compressed.*unpack it to a plain"):
            open_source(place)


def test_a_place_that_is_none_is_told_what_there_could_be(tmp_path: Path) -> None:
    (tmp_path / "words.doc").write_bytes(b"words")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "s.tar")
    cases = {
        tmp_path / "nowhere": "does not exist: give a folder of images",
        tmp_path / "*.tar": "No file matches",
        tmp_path / "s-{0..3}.tar": r"s-0.tar \(and 3 more\) does not exist",
        tmp_path: "holds no images: give",
        tmp_path / "words.doc": "words.doc is not a data set",
        tmp_path / "pipes" / "s.tar": "s.tar is not a file: give",
    }
    for place, message in cases.items():
        with pytest.raises(DataError, match=message):
            open_source(place)


def test_hugging_face_data_sets_give_files_and_captions_as_they_were_saved(tmp_path: Path, picture) -> None:
    datasets = pytest.importorskip("datasets")
    files = [picture(8 + number, 8) for number in range(3)]
    rows = {
        "image": [{"bytes": file, "path": None} for file in files],
        "caption": [["a fox", "an animal"], ["an owl"], []],
        "score": [[31.0, 26.0], [30.0], []],
        "label": [1, 2, 3],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "tables").mkdir()
    table.to_parquet(tmp_path / "tables" / "train-0.parquet")
    datasets.config.HF_DATASETS_CACHE = tmp_path / "cache"
    for place in ("saved", "splits", "tables", "tables/train-0.parquet"):
        source = pickle.loads(pickle.dumps(open_source(tmp_path / place)))
        assert [source.read(index) for index in range(3)] == files
        assert source.captions(0) == (Caption("a fox", 31.0), Caption("an animal", 26.0))
        assert source.captions(2) == ()
        assert source.fingerprint() == open_source(tmp_path / place).fingerprint()
    assert keys(open_source(tmp_path / "saved")) == ["saved:0", "saved:1", "saved:2"]

    datasets.Dataset.from_dict({"words": ["a"]}).save_to_disk(tmp_path / "words")
    with pytest.raises(DataError, match="no column of images, only words"):
        open_source(tmp_path / "words")


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    (tmp_path / "state.json").write_text("{}")
    for place in (tmp_path, "hub:someone/something"):
        with pytest.raises(MissingExtraError, match=r"sanakit\[train\]"):
            open_source(place)


def test_braces_multiply(tmp_path: Path) -> None:
    assert expand("{a,b}-{08..10}.tar") == [f"{x}-{n}.tar" for x in "ab" for n in ("08", "09", "10")]


def test_a_caption_ends_where_an_editor_ends_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "a.txt").write_bytes("\ufeffa fox\u2028asleep\ran\x85owl\r\n\x0ca dog\n".encode())
    assert texts(open_source(tmp_path), "a.jpg") == ["a fox\u2028asleep", "an\x85owl", "a dog"]


@pytest.mark.parametrize(("place", "words"), [("x" * 5000, "does not exist"), ("hub:", "names no data set")])
def test_names_that_no_place_can_have_are_refused(place: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_source(place)


def test_a_link_to_itself_beside_images_stops_nothing(tmp_path: Path, picture) -> None:
    (tmp_path / "fox.png").write_bytes(picture(64, 64))
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert "fox.png" in keys(open_source(tmp_path))
