"""Write files and folders whole or not at all, even if the process is killed.

They are written under a temporary name beside their place, fsynced and renamed: readers see
either the old file or the new one, and concurrent writers do not collide. New names are claimed first.

    .NAME.HEX.partial    what is being written, or was when its process was killed
    .NAME.HEX.old        the folder that it replaces, between the two renames
"""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sanakit.alone import alone
from sanakit.errors import OutputError

# Errors of systems on which a folder itself cannot be opened or synchronised, unlike its files.
_NO_FOLDERS = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EBADF}
ABANDONED = 86400.0  # seconds since the last change, after which nobody is at work on an unfinished file
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(?P<kind>partial|old)", re.DOTALL)


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


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """`written_whole` for a large file or folder, such as a model: by one process at a time.

    First it removes what killed processes left of it, and gives a folder that was moved aside its name back.
    Raises OutputError while another process writes it, and as `written_whole` does.
    """
    with alone(path.parent / f".{_short(path)}.lock", path) as locked:
        for old in leftovers(path, "old") if locked else ():
            if os.path.lexists(path):
                with suppress(OSError):
                    _remove(old)
            else:
                old.rename(path)
        sweep(path.parent, glob.escape(_short(path)), older=0 if locked else ABANDONED)
        with written_whole(path) as partial:
            yield partial


def leftovers(path: Path, kind: str = "*") -> list[Path]:
    """Return what was left beside a path by processes that were killed while they wrote it, or is being
    written now. kind: "partial" or "old", "*" for both.
    """
    with suppress(OSError, ValueError):  # names that no file can have
        return sorted(path.parent.glob(f".{glob.escape(_short(path))}.{'[0-9a-f]' * 16}.{kind}"))
    return []


def told_unfinished(path: Path) -> str:
    """Return in a sentence what a path is that is, or lies in, something unfinished; "" for any other."""
    for place in (path.absolute(), *path.absolute().parents):
        if found := _UNFINISHED.fullmatch(place.name):
            target = place.with_name(found["name"])
            if found["kind"] == "old":
                return f"{place} is an earlier {target}, moved aside to be replaced: rename it, or delete it."
            return (
                f"{place} is unfinished: a process is writing {target}, or was killed while it did. Wait for "
                "it, or run the same command again, which replaces it."
            )
    return ""


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
def written_new(path: Path, count: int) -> Iterator[tuple[list[Path], list[Path]]]:
    """Yield names to write so many files at, and an empty list, which gets their new names at the end.

    They are written in a folder beside `path`, .NAME.HEX.partial, however long that takes. Behind the block
    new names are claimed as by `claimed`, and the files renamed to them: no empty file is left by a process
    that is killed. Raises OutputError.
    """
    sweep(path.parent, glob.escape(_short(path)), older=ABANDONED)
    partial, names = _beside(path, "partial"), list[Path]()
    try:
        partial.mkdir()
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another folder.") from None
    try:
        made = numbered(partial / path.name, count)
        yield made, names
        with claimed(path, count) as free:
            for new, name in zip(made, free, strict=True):
                new.replace(name)
            names += free
    finally:
        with suppress(OSError):
            _remove(partial)


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
    return path.parent / f".{_short(path)}.{os.urandom(8).hex()}.{kind}"


def _short(path: Path) -> str:
    return path.name.encode(errors="ignore")[:200].decode(errors="ignore")


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
