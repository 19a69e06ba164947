"""What was drawn on the page: it is found again, by its room alone, for as long as it is kept."""

from __future__ import annotations

import io
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import encode
from sanakit.images.settings import metadata_of
from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.server import delete_before
from sanakit.serve.web import history as history_module
from sanakit.serve.web.history import SHARED, SMALL, History
from tests.serve.web.drawing import METADATA


def test_old_pictures_of_the_page_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    history = History(ImageStore(tmp_path))
    image = Image.new("RGB", (8, 8))
    kept = [
        history.add(SHARED, image, {"prompt": "a red apple", "seed": 7}),
        "page-1.png",
        "image_0.png",
    ]
    eight_days_ago = (time.time_ns() // 1000) - 8 * 86_400 * 10**6
    old = f"page-{'0' * 12}-{eight_days_ago:017d}-{'0' * 8}.png"
    for name in (*kept[1:], old):
        history.store.put(name, b"x")
    assert delete_before(history.store, 9) == 0
    assert delete_before(history.store, 7) == 1
    assert set(history.store.names()) == set(kept)


def test_an_image_that_is_slow_to_come_holds_up_nobody_who_wants_another(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "pictures")
    history = History(store, folder=tmp_path)
    slow, other = (history.add(SHARED, Image.new("RGB", (8, 8)), {"prompt": name}) for name in "ab")
    asked, come, whole = threading.Event(), threading.Event(), store.get

    def get(name: str) -> bytes:
        if name == slow:
            asked.set()
            assert come.wait(20)
        return whole(name)

    store.get = get
    waiting = threading.Thread(target=history.file, args=(SHARED, slow))
    waiting.start()
    assert asked.wait(20)
    assert history.file(SHARED, other).read_bytes() == whole(other)
    come.set()
    waiting.join(20)
    assert history.file(SHARED, slow).read_bytes() == whole(slow)


def test_only_a_rooms_own_names_are_asked_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, asked, whole = History(ImageStore(tmp_path)), [], ImageStore.names
    name = history.add("tab 1", Image.new("RGB", (8, 8)), {"prompt": "a"})
    history.add("tab 2", Image.new("RGB", (8, 8)), {"prompt": "b"})

    def names(store: ImageStore, prefix: str = "") -> list[str]:
        asked.append(prefix)
        return whole(store, prefix)

    monkeypatch.setattr(ImageStore, "names", names)
    assert history.names("tab 1") == [name]
    assert [name.startswith(prefix) and len(prefix) > 12 for prefix in asked] == [True]


def test_copies_lie_in_the_folder_that_was_named_for_their_owner_alone(tmp_path: Path) -> None:
    history = History(ImageStore(tmp_path / "pictures"), folder=tmp_path)
    name = history.add(SHARED, Image.new("RGB", (8, 8)), {"prompt": "a"})
    path = history.file(SHARED, name)
    assert path.parent.parent == tmp_path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    history.close()
    assert not path.parent.exists()


def test_what_lies_beside_an_old_image_goes_with_it(tmp_path: Path) -> None:
    history = History(ImageStore(tmp_path))
    name = history.add(SHARED, Image.new("RGB", (8, 8)), METADATA)
    history.mark(SHARED, name, True)
    history.small(SHARED, name)
    eight_days_ago = f"{(time.time_ns() // 1000) - 8 * 86_400 * 10**6:017d}"
    for file in history.store.names():
        history.store.put(file.replace(name[18:35], eight_days_ago), history.store.get(file))
    assert len(history.store.names()) == 6
    assert delete_before(history.store, 7) == 3
    assert all(file.startswith(name[:-4]) for file in history.store.names())


# History


def test_a_small_image_is_made_once_holds_the_settings_and_is_bounded(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = history.add(SHARED, Image.new("RGB", (900, 300), "red"), METADATA)
    small = history.small(SHARED, name)
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (SMALL, round(SMALL / 3))
        assert metadata_of(image) == METADATA
    assert history.about(SHARED, name) == METADATA
    monkeypatch.setattr(history_module, "open_image", lambda *_: pytest.fail("it was opened whole"))
    again = History(history.store)
    assert (again.small(SHARED, name), again.about(SHARED, name)) == (small, METADATA)


def test_another_rooms_images_are_neither_read_marked_nor_deleted(history: History) -> None:
    name = history.add("tab 1", Image.new("RGB", (8, 8)), METADATA)
    history.about("tab 1", name)
    for forbidden in (
        lambda: history.small("tab 2", name),
        lambda: history.about("tab 2", name),
        lambda: history.read("tab 2", name),
        lambda: history.mark("tab 2", name, True),
        lambda: history.delete("tab 2", [name]),
        lambda: history.time("tab 2", name),
        lambda: history.about(SHARED, name),
    ):
        with pytest.raises(SettingsError):
            forbidden()
    assert history.names("tab 1") == [name]
    assert history.favourites("tab 1") == set()


def test_one_name_that_may_not_be_deleted_keeps_all(history: History) -> None:
    name = history.add(SHARED, Image.new("RGB", (8, 8)), METADATA)
    with pytest.raises(SettingsError, match="belongs to a job"):
        history.delete(SHARED, [name, f"job_{'0' * 32}-0.png"])
    assert history.names(SHARED) == [name]
    assert history.delete(SHARED, [name, name]) == 1
    assert history.store.names() == []


def test_the_history_survives_a_restart_newest_first_byte_for_byte(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    image = Image.new("RGB", (64, 64), "red")
    before = History(store)
    names = [before.add(SHARED, image, METADATA | {"seed": seed}) for seed in range(3)]
    before.close()
    after = History(ImageStore(tmp_path))
    assert after.names(SHARED) == names[::-1]
    assert after.file(SHARED, names[0]).read_bytes() == store.get(names[0])
    assert after.metadata(SHARED, names[1]) == METADATA | {"seed": 1}
    with Image.open(io.BytesIO(after.small(SHARED, names[0]))) as small:
        assert small.size == (64, 64)


def test_rooms_are_separate_and_names_lead_nowhere_else(history: History) -> None:
    name = history.add("tab 1", Image.new("RGB", (8, 8)), METADATA)
    assert history.names("tab 2") == history.names(SHARED) == []
    for stranger in (name, "../secret.png", "/etc/passwd", ""):
        with pytest.raises(SettingsError):
            history.file("tab 2", stranger)


def test_pictures_of_jobs_are_in_the_shared_gallery(make_parts: Callable[..., Any]) -> None:
    parts = make_parts()
    history = History(parts.store, parts.jobs)
    mine = history.add(SHARED, Image.new("RGB", (8, 8)), METADATA)
    job = parts.jobs.add("generation", {"prompt": "a lemon"}, None, 1)
    parts.jobs.claim("test", 60)
    (name,) = job.result_names()
    assert history.names(SHARED) == [mine]  # it is not finished yet
    parts.store.put(name, encode(Image.new("RGB", (8, 8)), "PNG", METADATA))
    assert parts.jobs.finish(job.id, "test", [{"name": name, "metadata": {}}])
    assert history.names(SHARED) == [name, mine]
    assert history.metadata(SHARED, name) == METADATA
    assert history.names("tab 1") == []


def test_a_search_decodes_no_image_and_reads_each_once(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        history.add(SHARED, Image.new("RGB", (8, 8)), METADATA | {"prompt": one})
        for one in ("a fox", "a cat")
    ]
    history.store.put(damaged := history.add(SHARED, Image.new("RGB", (8, 8)), METADATA), b"nothing")
    read: list[str] = []
    get = history.store.get
    monkeypatch.setattr(history.store, "get", lambda name: [read.append(name), get(name)][1])
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were decoded"))
    assert history.find(SHARED, "FOX") == names[:1]
    assert history.find(SHARED, "cat pocket") == names[1:]
    assert sorted(read) == sorted([*names, damaged])
    monkeypatch.undo()
    history.delete(SHARED, names)
    assert history.find(SHARED, "fox") == []
    assert history._texts.keys() == {damaged}  # the words of deleted images are gone, too
