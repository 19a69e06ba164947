"""Text that people wrote is read as it is meant, and pipes are refused instead of waited for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sanakit.reading import check_file, json_line, named_once, read_text, split_lines

ODD = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # ends of lines to str.splitlines alone


def test_lines_end_as_editors_end_them_and_nowhere_else() -> None:
    assert split_lines("a\nb\r\nc\rd") == ["a", "b", "c", "d"]
    assert split_lines("a\n\nb\n") == ["a", "", "b"]
    assert split_lines(f"a{ODD}b") == [f"a{ODD}b"]
    assert split_lines("") == []


def test_a_text_is_read_without_its_mark_and_with_one_kind_of_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\xc2\x85d")
    assert read_text(path) == "a\nb\nc\x85d"
    path.write_bytes(b"\xff\xfea\x00")
    with pytest.raises(UnicodeDecodeError):
        read_text(path)


def test_a_line_of_json_is_one_line_to_every_reader() -> None:
    row = {"prompt": f"a fox{ODD}狐狸 🦊\n"}
    line = json_line(row)
    assert len(line.splitlines()) == len(split_lines(line)) == 1
    assert json.loads(line) == row
    assert "狐狸 🦊" in line


def test_a_name_that_an_object_of_json_has_twice_is_refused() -> None:
    assert json.loads('{"a": {"b": 1}, "b": 2}', object_pairs_hook=named_once) == {"a": {"b": 1}, "b": 2}
    with pytest.raises(ValueError, match="it says 'b' twice"):
        json.loads('{"a": {"b": 1, "b": 1}}', object_pairs_hook=named_once)


def test_a_pipe_is_refused_at_once_and_a_file_and_a_folder_are_not(fifo: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a pipe, a socket or a device") as caught:
        read_text(fifo)
    assert caught.value.strerror
    with pytest.raises(OSError, match="a pipe"):
        check_file("/dev/zero")
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "missing")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        check_file(path)
