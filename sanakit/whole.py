"""Write files and folders whole or not at all, even if the process is killed.

They are written under a temporary name beside their place, fsynced and renamed: readers see
either the old file or the new one, and concurrent writers do not collide. New names are claimed first.
"""

from __future__ import annotations

import errno
import glob
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sanakit.errors import OutputError

ABANDONED = 3600  # seconds after which an unfinished file, or an upload of no job, is a killed process's

# Errors of systems on which a folder itself cannot be opened or synchronised, unlike its files.
_NO_FOLDERS = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EBADF}


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; the file or folder made there is renamed to `path` at the end.

    The entry at `path` is replaced; of a link, not its target; a folder only by a folder, and when the
    process dies between its two renames, the old one is left as .NAME.*.old. The folder of `path` must exist.
    Errors of the block are passed on after its files are removed; so is the OSError of a full disk or an
    unwritable place, which the caller explains.
    """
    partial = _beside(path, "partial")
    try:
        yield partial
        _sync(partial)
        if partial.is_dir() and path.is_dir():
            _replace_folder(path, partial)
        else:
            partial.replace(path)
        sync_names(path.parent)
    finally:
        with suppress(OSError, ValueError):  # renamed, or never made
            _remove(partial)


def numbered(path: Path, count: int) -> list[Path]:
    """Return the names of so many files: `fox.png`, or `fox-1.png`, `fox-2.png`, ... for several."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{n}") for n in range(1, count + 1)]


@contextmanager
def claimed(path: Path, count: int) -> Iterator[list[Path]]:
    """Yield new names for so many files, which the block writes: `numbered` of fox.png, fox_2.png, ...

    Each name is taken by an empty file, so that another process finds it taken and goes on to the next ones.
    Files that are still empty after the block are removed. Raises OutputError.
    """
    taken: list[Path] = []
    first = (path if again == 1 else path.with_stem(f"{path.stem}_{again}") for again in itertools.count(1))
    try:
        yield next(
            names for one in first if not _exists(one) and _claim(names := numbered(one, count), taken)
        )
    finally:
        for made in taken:
            with suppress(OSError):
                if not made.lstat().st_size:
                    made.unlink()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder until the block ends, so that no other block of any process holds it, too.

    The folder is made where it is missing, and removed if it is still empty at the end. Unfinished files of
    killed processes are removed. The system lets go of it when the process ends, however it ends. Where
    folders cannot be locked (Windows, some network storage), nothing is held, and leftovers go by their age.
    Raises OutputError at once where it is held, or cannot be made.
    """
    made = not os.path.lexists(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = _open_folder(folder)
    except BlockingIOError:
        raise OutputError(
            f"Another process writes into {folder} now: wait until it ends, or choose another folder."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"The folder {folder} cannot be used ({reason}): choose another one.") from None
    try:
        sweep(folder, older=ABANDONED if opened is None else 0)
        yield
    finally:
        if made:
            with suppress(OSError):  # it is in use
                folder.rmdir()
        if opened is not None:
            os.close(opened)


def sweep(folder: Path, of: str = "*", *, older: float = 0) -> None:
    """Remove leftovers of killed processes from a folder, as far as possible. Raises nothing.

    of: pattern of the final names. older: seconds since the last change; 0 where nobody
    else can be writing there.
    """
    with suppress(OSError):
        for left in folder.glob(f".{of}.{'[0-9a-f]' * 16}.partial"):
            with suppress(OSError):  # another process was faster
                if not older or time.time() - left.lstat().st_mtime > older:
                    _remove(left)


def sync_names(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can. Raises OSError."""
    try:
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in _NO_FOLDERS:
            raise


def _open_folder(folder: Path) -> int | None:
    """Open and lock a folder; None where the system locks none. Raises BlockingIOError where it is held."""
    try:
        import fcntl
    except ImportError:
        return None
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        raise
    except OSError:  # this file system has no locks
        os.close(opened)
        return None
    return opened


def _exists(path: Path) -> bool:
    """Return whether there is a file of this name, or one with a number."""
    return os.path.lexists(path) or any(path.parent.glob(f"{glob.escape(path.stem)}-*"))


def _claim(names: list[Path], taken: list[Path]) -> bool:
    """Make an empty file of each name, and return whether all were new. taken: gets those that were."""
    for path in names:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}): choose another folder."
            ) from None
        taken.append(path)
    return True


def _beside(path: Path, kind: str) -> Path:
    """Return an unused name, short enough for any file system."""
    name = path.name.encode(errors="ignore")[:200].decode(errors="ignore")
    return path.parent / f".{name}.{os.urandom(8).hex()}.{kind}"


def _replace_folder(path: Path, new: Path) -> None:
    old = _beside(path, "old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    with suppress(OSError):
        _remove(old)


def _sync(place: Path) -> None:
    """Bring a file, or all that is in a folder, to the disk."""
    if place.is_dir():
        for entry in place.iterdir():
            _sync(entry)
        sync_names(place)
    else:
        with place.open("r+b") as file:  # Windows synchronises no file that is open for reading alone
            os.fsync(file.fileno())


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()
