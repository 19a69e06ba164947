"""The frames of a walk as they were sent, in a file that goes with it: memory does not grow with the walk."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

from sanakit.errors import StoppedError, StorageError


class Recording:
    """Encoded frames, one behind the other. folder: for the file; None: the system's for temporary ones."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(prefix="sana-walk-", dir=folder)  # noqa: SIM115
        self._lock = threading.Lock()
        self._places: list[tuple[int, int]] = []  # first byte and size of each frame
        self._end = 0

    def add(self, frame: bytes) -> int:
        """Keep a frame; return its number. Raises StorageError for a full disk, StoppedError once closed."""
        with self._lock:
            self._check_open()
            try:
                self._file.seek(self._end)
                self._file.write(frame)
                self._file.flush()
            except OSError as error:
                raise StorageError(f"A frame of a walk cannot be kept ({error.strerror}).") from None
            self._places.append((self._end, len(frame)))
            self._end += len(frame)
            return len(self._places) - 1

    def read(self, number: int) -> bytes:
        """Return a frame. Raises StoppedError once closed."""
        with self._lock:
            self._check_open()
            start, size = self._places[number]
            self._file.seek(start, os.SEEK_SET)
            return self._file.read(size)

    def close(self) -> None:
        """Delete the file."""
        with self._lock:
            self._file.close()

    def _check_open(self) -> None:
        if self._file.closed:
            raise StoppedError("This walk has ended: enter the world again.")
