"""One process at a time for one output: a second one is refused in a sentence, and nothing is mixed or lost.

A process holds a lock of the kernel on a file of its own, which ends with the process, however that ends.
Where files cannot be locked (Windows, some network file systems) nobody is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sanakit.errors import OutputError

LOCK = ".lock"  # in a folder that is filled bit by bit


@contextmanager
def alone(lock: Path, what: Path) -> Iterator[bool]:
    """Hold a lock file for the block, and yield whether it could be locked.

    lock: in a folder that exists; it is made, and removed at the end. what: what the block writes, for the
    message. A process that the block forks holds the lock, too. Raises OutputError while another process or
    thread holds it.
    """
    file = _lock(lock, what)
    try:
        yield file is not None
    finally:
        if file is not None:
            with suppress(OSError):
                lock.unlink()
            os.close(file)


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder that the block fills, and yield whether it could be locked.

    The folder is made, and removed again where it stays empty. One that cannot be made or written to is not
    told here: the block's own writes tell it. Raises OutputError while another process or thread holds it.
    """
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with alone(folder / LOCK, folder) as locked:
            yield locked
    finally:
        for place in made:
            with suppress(OSError):  # it is not empty
                place.rmdir()


def _lock(path: Path, what: Path) -> int | None:
    """Open and lock a file; None where that is not possible. Raises OutputError where another holds it."""
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise OutputError(
                f"Another process is writing {what}: wait until it ends, or choose another place."
            ) from None
        except OSError:
            os.close(file)
            return None
        if _is_at(path, file):
            return file
        os.close(file)  # the holder before removed it meanwhile


def _is_at(path: Path, file: int) -> bool:
    """Return whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
