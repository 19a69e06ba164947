"""Images are stored whole or not at all, and no name leads out of the store."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fsspec")

from sanakit.errors import OutputError, SettingsError, StorageError
from sanakit.serve.jobs.storage import ImageStore
from sanakit.whole import ABANDONED

TRICKS = [
    *("", ".", "..", "../x.png", "a/b.png", "/etc/passwd", "a\\b.png", "C:x.png", "..\\x", "a..b"),
    *(".hidden", "-rf", "x.png\n", "x.png\0", "x\0.png", "ü.png", "a b", "~", "~root", "%2e%2e", "x?y", "*"),
    *("a" * 129, "\ud800", "s3://x", "x:y", "$HOME", "．．/x"),
]


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ImageStore]:
    if request.param == "memory":
        from fsspec.implementations.memory import MemoryFileSystem

        yield ImageStore("memory://pictures/here")
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
    else:
        path = tmp_path / "data" / "pictures"
        yield ImageStore(f"file://{path}" if request.param == "file" else path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pictures"


def test_a_picture_comes_back_byte_for_byte_until_it_is_replaced_or_deleted(store: ImageStore) -> None:
    store.put("b.png", b"\0one\n")
    store.put("a-1_2.PNG", b"")
    assert store.names() == ["a-1_2.PNG", "b.png"]
    assert store.names("b") == ["b.png"]
    assert (store.get("b.png"), store.get("a-1_2.PNG")) == (b"\0one\n", b"")
    store.put("b.png", b"two")
    assert store.get("b.png") == b"two"
    store.delete("b.png")
    store.delete("b.png")  # twice is no error: expiry may be repeated
    assert store.names() == ["a-1_2.PNG"]
    with pytest.raises(LookupError, match=r"no image named b\.png"):
        store.get("b.png")


@pytest.mark.parametrize("trick", TRICKS)
def test_a_name_that_is_no_plain_name_is_refused_by_every_method(store: ImageStore, trick: str) -> None:
    for call in (lambda: store.put(trick, b"x"), lambda: store.get(trick), lambda: store.delete(trick)):
        with pytest.raises(SettingsError, match="is not an image name"):
            call()
    assert store.names() == []


def test_links_in_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    store = ImageStore(folder)
    (folder / "link.png").symlink_to(secret)
    assert store.names() == []
    with pytest.raises(LookupError):
        store.get("link.png")
    store.put("link.png", b"new")
    assert (secret.read_bytes(), store.get("link.png")) == (b"secret", b"new")
    (folder / "again.png").symlink_to(secret)
    store.delete("again.png")
    assert secret.exists()


def test_what_is_no_file_is_no_picture(folder: Path) -> None:
    store = ImageStore(folder)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    for name in ("folder.png", "pipe.png"):
        with pytest.raises(LookupError):
            store.get(name)
    assert store.names() == []
    with pytest.raises(OutputError, match="directory"):
        store.put("folder.png", b"x")


def test_a_full_disk_leaves_the_old_picture_and_no_pieces(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(folder)
    store.put("a.png", b"old")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"No space left.*space"):
            store.put("a.png", b"new")
    assert store.get("a.png") == b"old"
    assert os.listdir(folder) == ["a.png"]
    store.put("a.png", b"new")
    assert store.get("a.png") == b"new"


def test_a_folder_that_is_gone_is_one_sentence_and_serves_again_when_it_is_back(folder: Path) -> None:
    store = ImageStore(folder)
    store.put("a.png", b"x")
    aside = folder.rename(folder.with_name("aside"))
    with pytest.raises(OutputError, match="No such file"):
        store.put("b.png", b"x")
    with pytest.raises(StorageError):
        store.names()
    aside.rename(folder)
    assert store.get("a.png") == b"x"


@pytest.mark.parametrize("odd", ["{file}", "{file}/below", "bad\0name", "nosuchstore://x", "nosuchstore::x"])
def test_a_place_that_can_not_hold_pictures_is_one_sentence(odd: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((OutputError, SettingsError)) as refused:
        ImageStore(odd.format(file=tmp_path / "file"))
    assert str(refused.value).count("\n") == 0


def test_the_folder_is_for_its_owner_alone(folder: Path) -> None:
    ImageStore(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


IN_USE = f".0.{'0' * 16}.partial"
WRITE_FOR_EVER = """
import sys
from sanakit.serve.jobs.storage import ImageStore
store = ImageStore(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in b"ab":
        store.put("a.png", bytes([letter]) * 3_000_000)
"""


def test_a_killed_process_leaves_a_whole_picture_and_its_pieces_are_swept(folder: Path) -> None:
    store = ImageStore(folder)
    store.put("a.png", b"a" * 3_000_000)
    words = [sys.executable, "-c", WRITE_FOR_EVER, str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    give_up = time.monotonic() + 20
    while not any(folder.glob(".*.partial")):  # killed in the middle of a write
        assert time.monotonic() < give_up
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    data = store.get("a.png")
    assert len(data) == 3_000_000
    assert len(set(data)) == 1

    for piece in folder.glob(".*.partial"):
        os.utime(piece, (0, 0))
    (folder / IN_USE).write_bytes(b"")  # of a process that writes it now
    assert store.names() == ["a.png"]
    ImageStore(folder)
    assert sorted(os.listdir(folder)) == [IN_USE, "a.png"]


def test_names_are_listed_by_their_beginning(store: ImageStore) -> None:
    for name in ("job_1-0.png", "job_2-0.png", "page-1.png"):
        store.put(name, b"x")
    assert store.names("job_") == ["job_1-0.png", "job_2-0.png"]
    assert store.names("none") == []
    assert len(store.names()) == 3
    assert not store.is_old("page-1.png")
    store.sweep()
    assert len(store.names()) == 3


def test_an_image_is_old_an_hour_after_it_was_stored(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    store.put("a.png", b"x")
    assert not store.is_old("a.png")
    assert not store.is_old("none.png")
    os.utime(tmp_path / "a.png", times=(0, time.time() - ABANDONED - 1))
    assert store.is_old("a.png")
    with pytest.raises(SettingsError):
        store.is_old("../a.png")


def test_an_unfinished_file_of_a_killed_server_goes_while_another_one_runs(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    for name, age in ((f".a.png.{'0' * 16}.partial", ABANDONED + 1), (f".b.png.{'1' * 16}.partial", 5)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, times=(0, time.time() - age))
    store.sweep()
    assert [path.name for path in tmp_path.iterdir()] == [f".b.png.{'1' * 16}.partial"]
