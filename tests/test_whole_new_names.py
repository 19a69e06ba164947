"""New files that take long to write have no name until they are whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from sanakit.errors import OutputError
from sanakit.whole import told_unfinished, written_new


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_new_files_get_their_names_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with written_new(path, 2) as (made, new):
        for file in made:
            file.write_text(file.name)
        [folder] = tmp_path.iterdir()
        assert told_unfinished(folder)
        path.write_text("another process was faster")
    assert [file.name for file in new] == ["a_2-1.txt", "a_2-2.txt"]
    assert [file.read_text() for file in new] == ["a-1.txt", "a-2.txt"]
    assert names(tmp_path) == ["a.txt", "a_2-1.txt", "a_2-2.txt"]


def test_new_files_that_fail_leave_nothing_and_old_leftovers_go(tmp_path: Path) -> None:
    path, left = tmp_path / "a.txt", tmp_path / f".a.txt.{'0' * 16}.partial"
    left.mkdir()
    (left / "a.txt").write_text("half")
    with suppress(KeyError), written_new(path, 1) as (made, _):
        made[0].write_text("half")
        raise KeyError
    assert names(tmp_path) == [left.name]  # of a process that may still be at work
    os.utime(left, (0, 0))
    with written_new(path, 1) as (made, new):
        made[0].write_text("whole")
    assert (new, names(tmp_path)) == ([path], ["a.txt"])
    with pytest.raises(OutputError, match="cannot be written"), written_new(tmp_path / "no" / "a", 1):
        pass
