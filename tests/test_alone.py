"""While one process writes to a place, a second one is refused; what the first one leaves refuses nobody."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sanakit.alone import LOCK, alone, alone_in
from sanakit.errors import OutputError

fcntl = pytest.importorskip("fcntl", reason="files cannot be locked here, and nobody is refused")

HOLDS = """
import sys, time
from pathlib import Path
from sanakit.alone import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[bytes]:
    """Return a process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen[bytes], number: int) -> None:
    process.send_signal(number)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_process_is_refused_in_a_sentence_until_the_first_one_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(OutputError) as caught, alone_in(tmp_path):
            pass
        sentence = f"Another process is writing {tmp_path}: wait until it ends, or choose another place."
        assert str(caught.value) == sentence
    finally:
        end(process, signal.SIGKILL)
    assert (tmp_path / LOCK).exists()  # left by the killed process; the next one takes it
    with alone_in(tmp_path) as locked:
        assert locked
    assert not (tmp_path / LOCK).exists()


def test_a_second_thread_is_refused_and_other_places_are_free(tmp_path: Path) -> None:
    with alone(tmp_path / "a.lock", tmp_path / "a") as locked:
        assert locked
        with (
            pytest.raises(OutputError, match="Another process is writing"),
            alone(tmp_path / "a.lock", tmp_path),
        ):
            pass
        with alone(tmp_path / "b.lock", tmp_path / "b"):
            assert (tmp_path / "a.lock").exists()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="mine"), alone(tmp_path / "a.lock", tmp_path):
        raise ValueError("mine")
    with alone(tmp_path / "a.lock", tmp_path):
        pass


def test_two_never_hold_a_lock_together_however_often_it_is_made_and_removed(tmp_path: Path) -> None:
    inside, most, held = [0], [0], [0]

    def work() -> None:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            try:
                with alone(tmp_path / "lock", tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0)
                    inside[0] -= 1
                    held[0] += 1
            except OutputError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held[0] > 10
    assert most[0] == 1


def test_a_folder_is_made_and_goes_again_where_it_stays_empty(tmp_path: Path) -> None:
    with alone_in(tmp_path / "a" / "b") as locked:
        assert locked
    assert not (tmp_path / "a").exists()
    with alone_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").write_text("mine")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]
    (tmp_path / "c").mkdir()
    with alone_in(tmp_path / "c"):
        pass
    assert (tmp_path / "c").is_dir()  # it was there before


def test_a_place_that_takes_no_lock_is_left_to_those_who_write_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    with alone_in(tmp_path / "file") as locked:
        assert not locked

    def unsupported(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with alone_in(tmp_path) as first, alone_in(tmp_path) as second:
        assert not first
        assert not second
