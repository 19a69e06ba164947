"""What an archive gives: the files that unpacking it gives, and the damage that hides others."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sanakit.data.read.tar_index import index_tar

Tar = Callable[..., Path]
HARD, SOFT = tarfile.LNKTYPE, tarfile.SYMTYPE
MEMBERS = [(f"{number}.jpg", bytes([65 + number]) * 900) for number in range(10)]
MEMBER = 512 + 1024  # bytes of one of them


def contents(path: Path) -> dict[str, bytes]:
    whole = path.read_bytes()
    return {name: whole[at : at + size] for name, (_, at, size) in index_tar(path).files.items()}


def unpacked(path: Path, folder: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="fully_trusted")
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_links_and_repeated_members_give_what_unpacking_gives(tmp_path: Path, tar: Tar) -> None:
    path = tar(
        tmp_path / "s.tar",
        [
            ("a.jpg", b"first"),
            ("b.jpg", b"second"),
            ("./a.jpg", b"third"),
            ("hard.jpg", (HARD, "./a.jpg")),
            ("harder.jpg", (HARD, "hard.jpg")),
            ("in/soft.jpg", (SOFT, "../late.jpg")),
            ("softer.jpg", (SOFT, "in/soft.jpg")),
            ("late.jpg", b"fourth"),
            ("was-a-link.jpg", (SOFT, "b.jpg")),
            ("was-a-link.jpg", b"fifth"),
        ],
    )
    (tmp_path / "folder").mkdir()
    found = contents(path)
    assert found == unpacked(path, tmp_path / "folder")
    assert found["harder.jpg"] == found["a.jpg"] == b"third"
    assert found["softer.jpg"] == b"fourth"
    again = "is in the shard more than once: the last one is used"
    assert index_tar(path).ignored == {"./a.jpg": again, "was-a-link.jpg": again}


def test_links_to_nowhere_and_what_is_no_file_are_named(tmp_path: Path, tar: Tar) -> None:
    path = tar(
        tmp_path / "s.tar",
        [
            ("a.jpg", b"x"),
            ("gone.jpg", (SOFT, "nowhere.jpg")),
            ("circle.jpg", (SOFT, "back.jpg")),
            ("back.jpg", (SOFT, "circle.jpg")),
            ("outside.jpg", (SOFT, "/etc/hostname")),
            ("early.jpg", (HARD, "late.jpg")),
            ("late.jpg", b"y"),
            ("pipe.jpg", (tarfile.FIFOTYPE, "")),
            ("folder", (tarfile.DIRTYPE, "")),
        ],
    )
    index = index_tar(path)
    assert list(index.files) == ["a.jpg", "late.jpg"]
    assert set(index.ignored) == {
        "gone.jpg",
        "circle.jpg",
        "back.jpg",
        "outside.jpg",
        "early.jpg",
        "pipe.jpg",
    }
    assert index.ignored["gone.jpg"] == "is a link to nowhere.jpg, which is not a file of the shard"
    assert index.ignored["early.jpg"] == "is a link to late.jpg, which is not in the shard before it"


@pytest.mark.parametrize("byte", [0, 100, 124, 148, 156, 257])
def test_a_flipped_bit_in_a_header_is_told_with_what_is_lost(tmp_path: Path, tar: Tar, byte: int) -> None:
    path = tar(tmp_path / "s.tar", MEMBERS)
    content = bytearray(path.read_bytes())
    content[2 * MEMBER + byte] ^= 4
    path.write_bytes(content)
    index = index_tar(path)
    assert list(index.files) == ["0.jpg", "1.jpg"]
    lost = len(content) - 2 * MEMBER
    assert index.damage.startswith(f"is damaged at byte 3,072: the {lost:,} bytes from there on are not read")


def test_a_flipped_bit_behind_a_long_name_is_told(tmp_path: Path, tar: Tar) -> None:
    long = "deep/" * 50 + "fox.jpg"
    path = tar(tmp_path / "s.tar", [*MEMBERS[:1], (long, b"x"), *MEMBERS[1:]], tarfile.GNU_FORMAT)
    content = bytearray(path.read_bytes())
    content[MEMBER + 1024 + 5] ^= 4  # the header after the name's own two blocks
    path.write_bytes(content)
    assert list(index_tar(path).files) == ["0.jpg"]
    assert "is damaged at byte 1,536" in index_tar(path).damage


@pytest.mark.parametrize(
    ("length", "whole"),
    [
        (3 * MEMBER, 3),  # between two members
        (3 * MEMBER + 100, 3),  # in a header
        (3 * MEMBER + 512, 3),  # behind a header
        (3 * MEMBER + 600, 3),  # in a file
        (3 * MEMBER + 512 + 900, 4),  # behind a file, before the zeros that fill its block
        (10 * MEMBER, 10),  # before the end's mark
    ],
)
def test_an_archive_that_ends_early_is_never_whole(tmp_path: Path, tar: Tar, length: int, whole: int) -> None:
    path = tar(tmp_path / "s.tar", MEMBERS)
    path.write_bytes(path.read_bytes()[:length])
    assert list(index_tar(path).files) == [name for name, _ in MEMBERS[:whole]]
    assert index_tar(path).damage.startswith("ends early")


@pytest.mark.parametrize("more", [0, 512, 100_000])
def test_a_whole_archive_has_no_damage_however_many_zeros_end_it(tmp_path: Path, tar: Tar, more: int) -> None:
    path = tar(tmp_path / "s.tar", MEMBERS)
    path.write_bytes(path.read_bytes()[: 10 * MEMBER + 512] + bytes(more))
    assert index_tar(path).damage == ""
    assert len(index_tar(path).files) == 10


def test_archives_that_were_joined_are_told(tmp_path: Path, tar: Tar) -> None:
    path = tar(tmp_path / "s.tar", MEMBERS[:2])
    other = tar(tmp_path / "t.tar", MEMBERS[2:])
    path.write_bytes(path.read_bytes() + other.read_bytes())
    assert list(index_tar(path).files) == ["0.jpg", "1.jpg"]
    assert "behind its end, which are not read" in index_tar(path).damage


def test_a_header_that_was_zeroed_is_told(tmp_path: Path, tar: Tar) -> None:
    path = tar(tmp_path / "s.tar", MEMBERS)
    content = path.read_bytes()
    path.write_bytes(content[: 2 * MEMBER] + bytes(512) + content[2 * MEMBER + 512 :])
    assert list(index_tar(path).files) == ["0.jpg", "1.jpg"]
    assert "bytes behind its end, which are not read" in index_tar(path).damage


def test_a_negative_size_does_not_read_for_ever(tmp_path: Path) -> None:
    evil = tarfile.TarInfo("evil.jpg")
    evil.size = -1536  # back to the first member
    first = tarfile.TarInfo("first.jpg")
    blocks = [first.tobuf(), evil.tobuf(tarfile.GNU_FORMAT), bytes(1024)]
    path = tmp_path / "s.tar"
    path.write_bytes(b"".join(blocks))
    assert list(index_tar(path).files) == ["first.jpg"]
    assert "is damaged at byte 512" in index_tar(path).damage


def test_a_missing_file_and_another_kind_of_file_are_told(tmp_path: Path) -> None:
    assert index_tar(tmp_path / "gone.tar").damage == "cannot be read (No such file or directory)"
    (tmp_path / "s.tar").write_bytes(b"no tar at all" * 100)
    assert "is damaged or not a tar file" in index_tar(tmp_path / "s.tar").damage


def test_a_sparse_file_is_named(tmp_path: Path) -> None:
    member = tarfile.TarInfo("hole.jpg")
    member.size = 512
    member.pax_headers = {"GNU.sparse.map": "0,512", "GNU.sparse.size": "4096", "GNU.sparse.name": "hole.jpg"}
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(bytes(512)))
    assert index_tar(path).files == {}
    assert "sparse" in index_tar(path).ignored["hole.jpg"]
