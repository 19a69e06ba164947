"""Files to download: the newest few stay, a failed one leaves nothing, and no name is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.errors import OutputError
from sanakit.serve.web.kept import downloads
from sanakit.serve.web.kept.downloads import Downloads


def write(made: Downloads, text: str) -> Path:
    with made.added("a.txt") as path:
        path.write_text(text)
    return path


def test_the_newest_files_stay_in_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MOST_FILES", 2)
    made = Downloads("sana-test-", tmp_path)
    paths = [write(made, text) for text in "abc"]
    assert [path.exists() for path in paths] == [False, True, True]
    assert made.files == paths[1:]
    assert [path.read_text() for path in made.files] == ["b", "c"]
    assert len(list(paths[1].parent.parent.iterdir())) == 2
    assert paths[1].parent.stat().st_mode & 0o777 == 0o700
    assert len({path.parent.name for path in paths}) == 3


def test_a_file_that_fails_leaves_nothing_and_takes_no_others_place(tmp_path: Path) -> None:
    made = Downloads("sana-test-", tmp_path)
    kept = write(made, "a")

    def fail() -> None:
        with made.added("a.txt") as path:
            path.write_text("half")
            raise OutputError("The disk is full.")

    with pytest.raises(OutputError):
        fail()
    assert made.files == [kept]
    assert list(kept.parent.parent.iterdir()) == [kept.parent]
