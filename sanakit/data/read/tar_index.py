"""The files of a tar archive: where each begins, found in one pass over the headers.

It gives the files that unpacking would give: of several members of one name the last, and links as what they
lead to. A damaged header ends the pass, as nothing tells where the next one is; the damage is told.
Source of the format: POSIX pax; an archive ends with blocks of zeros.
"""

from __future__ import annotations

import posixpath
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_BLOCK = tarfile.BLOCKSIZE
_READ_AT_ONCE = 2**20  # bytes
_EARLY = "ends early, so files at its end may be missing: make or fetch it again"


@dataclass(slots=True)
class TarIndex:
    """The files of an archive.

    files: path as unpacked -> name of the member, offset and size in bytes; in the archive's order.
    ignored: name of a member -> why it is not used.   damage: why parts of the archive are not read, or "".
    """

    files: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    damage: str = ""


def index_tar(path: Path) -> TarIndex:
    """Read the headers of an archive. Files and folders whose names begin with a dot are passed over."""
    index = TarIndex()
    found: dict[str, _Member] = {}
    after = 0  # where the next header begins
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            length = path.stat().st_size
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - it would keep all
                if archive.offset <= after:
                    raise tarfile.ReadError("a negative size")  # would read the same headers for ever
                after = archive.offset
                _add(member, length, found, index.ignored)
            index.damage = _after_the_last(file, after, length)
    except OSError as error:
        index.damage = f"cannot be read ({error.strerror or error})"
    except Exception as error:  # damaged headers make the reader raise anything
        index.damage = _damage(path, after, str(error))
    for unpacked, member in found.items():
        place = _followed(member, found)
        if any(part.startswith(".") and part != ".." for part in unpacked.split("/")):
            continue
        if place is None:
            index.ignored[member.name] = f"is a link to {member.target}, which is not a file of the shard"
        else:
            index.files[unpacked] = (member.name, *place)
    return index


@dataclass(frozen=True, slots=True)
class _Member:
    """A file, with its offset and size, or a symbolic link, with the path that it leads to."""

    name: str
    place: tuple[int, int] | None
    target: str = ""


def _add(member: tarfile.TarInfo, length: int, found: dict[str, _Member], ignored: dict[str, str]) -> None:
    """Put a member among the found ones or the ignored ones. length: of the archive in bytes."""
    path = _unpacked(member.name)
    if member.isdir():
        return
    if member.issym():
        target = posixpath.join(posixpath.dirname(path), member.linkname)
        new = _Member(member.name, None, posixpath.normpath(target))
    elif member.islnk():
        linked = found.get(_unpacked(member.linkname))
        if linked is None:
            ignored[member.name] = f"is a link to {member.linkname}, which is not in the shard before it"
            return
        new = _Member(member.name, linked.place, linked.target)
    elif not member.isreg():
        ignored[member.name] = "is not a file"
        return
    elif member.issparse():
        ignored[member.name] = "is stored as a sparse file: pack it without --sparse"
        return
    elif member.offset_data + member.size > length:
        ignored[member.name] = "is cut off: the shard ends inside it"
        return
    else:
        new = _Member(member.name, (member.offset_data, member.size))
    if path in found:
        ignored[member.name] = "is in the shard more than once: the last one is used"
    found[path] = new


def _unpacked(name: str) -> str:
    """Return the path at which a member is unpacked: ./fox.jpg and /fox.jpg are fox.jpg."""
    return posixpath.normpath(name).lstrip("/")


def _followed(member: _Member, found: dict[str, _Member]) -> tuple[int, int] | None:
    """Return offset and size of what a member leads to; None for a link to nowhere, or in a circle."""
    seen = {member.target}
    while member.place is None:
        following = found.get(member.target)
        if following is None or following.target in seen:
            return None
        member = following
        seen.add(member.target)
    return member.place


def _after_the_last(file: BinaryIO, after: int, length: int) -> str:
    """Return what is wrong behind the last header that was read, or "": zeros, to the end."""
    file.seek(after)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        return _EARLY
    if block.strip(b"\0"):
        return _lost(after, length)
    while chunk := file.read(_READ_AT_ONCE):
        if chunk.strip(b"\0"):
            return (
                f"goes on for {length - after:,} bytes behind its end, which are not read: archives that "
                "were joined have to be separate files"
            )
    return ""


def _damage(path: Path, after: int, reason: str) -> str:
    if not after:
        return f"is damaged or not a tar file ({reason})"
    length = path.stat().st_size
    return _EARLY if after >= length else _lost(after, length)


def _lost(after: int, length: int) -> str:
    return (
        f"is damaged at byte {after:,}: the {length - after:,} bytes from there on are not read; make or "
        "fetch it again"
    )
