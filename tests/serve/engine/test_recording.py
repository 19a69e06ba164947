"""The frames of a walk in a file: what is added is read again, and it goes with the walk."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from sanakit.errors import StoppedError, StorageError
from sanakit.serve.engine.recording import Recording


def test_frames_are_read_in_any_order_between_additions(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    frames = [b"one", b"", b"three" * 1000]
    assert [recording.add(frame) for frame in frames] == [0, 1, 2]
    assert recording.read(2) == frames[2]
    assert recording.add(b"four") == 3
    assert [recording.read(number) for number in range(4)] == [*frames, b"four"]


def test_a_closed_one_has_no_file_and_takes_and_gives_nothing(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    recording.add(b"one")
    recording.close()
    recording.close()
    assert not list(tmp_path.iterdir())
    for act in (lambda: recording.read(0), lambda: recording.add(b"two")):
        with pytest.raises(StoppedError, match="This walk has ended: enter the world again"):
            act()


def test_a_full_disk_is_told_and_what_was_there_stays() -> None:
    recording = Recording()
    recording.add(b"one")
    file: Any = recording._file

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    recording._file = Full()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StorageError, match="No space left"):
        recording.add(b"two")
    recording._file = file
    assert recording.add(b"three") == 1
    assert [recording.read(0), recording.read(1)] == [b"one", b"three"]
