"""What is written whole is there whole, or what was there before is."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from sanakit import whole
from sanakit.errors import OutputError
from sanakit.whole import alone_in, claimed, sweep, written_whole


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("")
    with written_whole(path) as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "new").write_text("new")
    assert names(tmp_path) == ["model"]
    assert names(path) == ["inner"]
    assert (path / "inner" / "new").read_text() == "new"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_is_passed_on_and_leaves_what_was_there(
    tmp_path: Path, kind: type[BaseException], folder: bool
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with written_whole(path) as partial:
            if folder:
                partial.mkdir()
            (partial / "file" if folder else partial).write_text("half")
            raise kind

    with pytest.raises(kind):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_is_passed_on_for_the_caller_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught, written_whole(path) as partial:
        partial.write_text("new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_everything_is_on_the_disk_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace = Path.replace

    def renamed(self: Path, target: Path) -> Path:
        events.append("named")
        return replace(self, target)

    sync = os.fsync

    def synced(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with written_whole(tmp_path / "a") as partial:
        partial.write_text("new")
    assert events == ["file", "named", "folder"]
    events.clear()
    with written_whole(tmp_path / "b") as partial:
        partial.mkdir()
        (partial / "inner").write_text("new")
    assert events == ["file", "folder", "named", "folder"]


@pytest.mark.parametrize(("code", "passed_on"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_system_that_synchronises_no_folders_is_enough_and_a_broken_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, passed_on: bool
) -> None:
    def refused(path: Path, flags: int) -> int:
        raise OSError(code, os.strerror(code))

    expected = pytest.raises(OSError, match=os.strerror(code)) if passed_on else nullcontext()
    with monkeypatch.context() as patch, expected:
        patch.setattr(whole.os, "open", refused)  # files are opened by `io.open`, folders alone by this
        with written_whole(tmp_path / "a") as partial:
            partial.write_text("new")
    assert (tmp_path / "a").read_text() == "new"


def test_a_folder_whose_place_is_taken_meanwhile_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").write_text("")
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), written_whole(path) as partial:
        partial.mkdir()
    assert names(tmp_path) == ["model"]
    assert names(path) == ["old"]


def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with written_whole(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "precious").read_text() == "old"
    assert not (tmp_path / "link").is_symlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("old")
    (tmp_path / "way").symlink_to(tmp_path / "folder")
    with written_whole(tmp_path / "way") as partial:
        partial.mkdir()
    assert names(tmp_path / "folder") == ["precious"]
    assert names(tmp_path) == ["folder", "link", "precious", "way"]


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "a" + "😀" * 63])
def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path, name: str) -> None:
    with written_whole(tmp_path / name) as partial:
        partial.write_text("new")
    assert names(tmp_path) == [name]


KILLED = """
import sys, time
from pathlib import Path
from sanakit.whole import written_whole
with written_whole(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("written", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal")
def test_a_killed_process_leaves_the_old_file_and_its_pieces_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"written\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert path.read_text() == "old"
    others = [".mine.partial", "mine.partial", "b.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    assert len(names(tmp_path)) == 5
    sweep(tmp_path, older=3600)
    sweep(tmp_path, "b.*")
    assert len(names(tmp_path)) == 5
    sweep(tmp_path, "a.*")
    assert names(tmp_path) == sorted(["a.txt", *others])
    sweep(tmp_path / "nowhere")


def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    together = threading.Barrier(3)

    def write(letter: str) -> None:
        with written_whole(path) as partial:
            partial.write_text(letter)
            together.wait(10)
            assert partial.read_text() == letter
            partial.write_text(letter * 100_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_text()
    assert content in {letter * 100_000 for letter in "abc"}
    assert names(tmp_path) == ["a"]


# New names


def test_new_names_are_numbered_and_no_name_that_is_there_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for count in (1, 1, 2, 1):
        with claimed(path, count) as new:
            for one in new:
                one.write_text("image")
    assert names(tmp_path) == ["a.png", "a_2.png", "a_3-1.png", "a_3-2.png", "a_4.png"]
    (tmp_path / "b-2.png").symlink_to("nowhere")
    with claimed(tmp_path / "b.png", 2) as new:
        assert [one.name for one in new] == ["b_2-1.png", "b_2-2.png"]


@pytest.mark.parametrize("count", [1, 2])
def test_names_that_were_claimed_are_not_given_to_another(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.png"
    with claimed(path, count) as mine, claimed(path, count) as other:
        assert not {*mine} & {*other}
        for text, paths in (("mine", mine), ("other", other)):
            for one in paths:
                with written_whole(one) as partial:
                    partial.write_text(text)
    assert [one.read_text() for one in (*mine, *other)] == ["mine"] * count + ["other"] * count
    assert len(names(tmp_path)) == 2 * count


def test_a_name_that_came_up_in_between_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "_exists", lambda path: False)  # nothing was there when it was looked at
    (tmp_path / "a-1.png").write_text("theirs")
    with claimed(tmp_path / "a.png", 2) as paths:
        assert [path.name for path in paths] == ["a_2-1.png", "a_2-2.png"]
    assert (tmp_path / "a-1.png").read_text() == "theirs"


def test_of_many_that_choose_a_name_at_once_each_has_its_own(tmp_path: Path) -> None:
    start, chosen = threading.Barrier(8), []

    def choose() -> None:
        start.wait()
        with claimed(tmp_path / "a.png", 1) as (path,):
            path.write_text("image")
            chosen.append(path)

    threads = [threading.Thread(target=choose) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(chosen)) == 8


def test_names_that_nothing_was_written_to_are_given_back(tmp_path: Path) -> None:
    def stopped() -> None:
        with claimed(tmp_path / "a.png", 3) as paths:
            paths[0].write_text("image")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert names(tmp_path) == ["a-1.png"]


def test_a_place_that_takes_no_names_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="choose another folder"), claimed(tmp_path / "no" / "a.png", 1):
        pass


HOLDING = """
import sys
from pathlib import Path
from sanakit.whole import alone_in

with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with (
        pytest.raises(OutputError, match=r"Another process writes into .*: wait until it ends"),
        alone_in(folder),
    ):
        pass
    other.kill()
    other.wait()
    other.stdin.close()
    other.stdout.close()
    with alone_in(folder), pytest.raises(OutputError, match="Another process"), alone_in(folder):
        pass
    with alone_in(folder):
        (folder / "kept").write_text("")
    assert folder.exists()


def test_a_folder_that_cannot_be_held_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "a\0b", tmp_path / ("a" * 300)):
        with pytest.raises(OutputError, match="cannot be used"), alone_in(place):
            pass


def test_without_locks_a_folder_is_not_held_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with alone_in(tmp_path / "x"), alone_in(tmp_path / "x"):
        (tmp_path / "x" / f".a.{'0' * 16}.partial").write_text("of the other, perhaps")
        with alone_in(tmp_path / "x"):
            pass
        assert len(names(tmp_path / "x")) == 1
