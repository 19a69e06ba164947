"""Captions beside a data set: what was written is read, and no kill loses more than a line."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sanakit.data.read.captions import Caption
from sanakit.data.read.sidecar import SIDECAR, Known, SidecarWriter, merged, read_sidecar, sidecar_path
from sanakit.errors import DataError, OutputError

APPLE, FRUIT = Caption("an apple", None, "one"), Caption("a fruit", 21.5, "two")


def written(path: Path, *rows: tuple[str, list[Caption]], scorer: str = "") -> Path:
    with SidecarWriter(path) as writer:
        for key, captions in rows:
            writer.add(key, captions, scorer=scorer)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    odd = Caption('line\nbreak "quoted" ünï 🍎 \u2028', 0.0, "")
    path = written(tmp_path / "new" / SIDECAR, ("a/1.png", [APPLE, FRUIT]), ("b.tar:ü.png", [odd]))
    assert read_sidecar(path) == {
        "a/1.png": Known((APPLE, FRUIT), ("", "")),
        "b.tar:ü.png": Known((odd,), ("",)),
    }
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0]) == {
        "key": "a/1.png",
        "captions": [
            {"text": "an apple", "source": "one", "score": None},
            {"text": "a fruit", "source": "two", "score": 21.5},
        ],
    }


def test_a_key_that_is_no_unicode_is_read_as_written(tmp_path: Path) -> None:
    key = os.fsdecode(b"caf\xe9.png")
    assert list(read_sidecar(written(tmp_path / SIDECAR, (key, [APPLE])))) == [key]


def test_rows_of_a_picture_add_up_and_the_newest_score_holds(tmp_path: Path) -> None:
    path = written(tmp_path / SIDECAR, ("1", [APPLE]), ("1", [FRUIT]))
    scored = Caption("an apple", 30.0, "one")
    written(path, ("1", [scored]), scorer="clip")
    assert read_sidecar(path) == {"1": Known((scored, FRUIT), ("clip", ""))}


def test_a_blank_text_is_not_a_caption(tmp_path: Path) -> None:
    path = written(tmp_path / SIDECAR, ("1", [Caption("", 30.0), APPLE, Caption(" \n")]))
    assert read_sidecar(path) == {"1": Known((APPLE,), ("",))}


def test_own_captions_come_first_and_take_the_sidecars_scores() -> None:
    own = (Caption("own"), Caption("other"))
    known = Known((Caption("new", None, "one"), Caption("other", 3.0)), ("", ""))
    assert merged(own, known) == (Caption("own"), Caption("other", 3.0), Caption("new", None, "one"))
    assert merged(own, None) == own


def test_without_a_sidecar_nothing_is_known(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / SIDECAR) == {}


@pytest.mark.parametrize(
    "tail", [b'{"key": "3", "capt', b"\x00" * 40, b'{"key": "3", "captions": 5}\n', b"\xff\n\n"]
)
def test_a_damaged_last_line_is_left_out_and_cut_by_the_next_writer(tmp_path: Path, tail: bytes) -> None:
    path = written(tmp_path / SIDECAR, ("1", [APPLE]), ("2", [FRUIT]))
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert list(read_sidecar(path)) == ["1", "2"]
    written(path, ("3", [APPLE]))
    assert list(read_sidecar(path)) == ["1", "2", "3"]
    assert path.read_bytes().startswith(whole + b'{"key": "3"')


def test_a_last_line_without_line_break_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path / SIDECAR, ("1", [APPLE]), ("2", [FRUIT]))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    written(path, ("3", [APPLE]))
    assert list(read_sidecar(path)) == ["1", "2", "3"]


@pytest.mark.parametrize(
    "line",
    ["nonsense", "5", '{"key": 5, "captions": []}', '{"key": "a"}', '{"key": "a", "captions": ["text"]}']
    + ['{"key": "a", "captions": [{"text": "b", "score": NaN}]}', '{"key": "a", "captions": [{"text": 5}]}']
    + ['{"key": "a", "captions": [{"text": "b", "score": "5"}]}'],
)
def test_a_damaged_line_before_the_last_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / SIDECAR, ("1", [APPLE]), ("2", [FRUIT]))
    first, second = path.read_text().splitlines()
    path.write_text("\n".join([first, line, second]) + "\n")
    with pytest.raises(DataError, match=rf"{SIDECAR}, line 2, is not a row of captions"):
        read_sidecar(path)


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / SIDECAR
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, name)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {len(known.captions) for known in read_sidecar(path).values()} == {2}
    assert len(read_sidecar(path)) == 500


def _write_many(path: Path, name: str) -> None:
    with SidecarWriter(path) as writer:
        for number in range(500):
            writer.add(str(number), [Caption("text " * 50, None, name)])


KILLED = """
import os, signal, sys
from pathlib import Path
from sanakit.data.read import sidecar
from sanakit.data.read.captions import Caption
with sidecar.SidecarWriter(Path(sys.argv[1])) as writer:
    writer.add("1", [Caption("whole")])
    half = writer._file
    class Half:  # the process dies in the middle of a row
        def write(self, line):
            half.write(line[: len(line) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    writer._file = Half()
    writer.add("2", [Caption("never whole")])
"""


def test_a_writer_killed_in_the_middle_of_a_row_loses_that_row_only(tmp_path: Path) -> None:
    path = tmp_path / SIDECAR
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert not path.read_bytes().endswith(b"\n")
    assert list(read_sidecar(path)) == ["1"]
    written(path, ("2", [APPLE]))
    assert list(read_sidecar(path)) == ["1", "2"]


def test_the_sidecar_lies_in_the_folder_of_the_pictures_or_shards(tmp_path: Path) -> None:
    assert sidecar_path(tmp_path) == tmp_path / SIDECAR
    assert sidecar_path(tmp_path / "0000.tar") == tmp_path / SIDECAR
    assert sidecar_path(tmp_path / "{0000..0003}.tar") == tmp_path / SIDECAR
    assert sidecar_path(tmp_path / "part-*" / "000?.tar") == tmp_path / SIDECAR
    with pytest.raises(DataError, match="--output"):
        sidecar_path("hub:someone/pictures")


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        SidecarWriter(tmp_path / "file" / SIDECAR)
