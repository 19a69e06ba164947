"""What was drawn on the page: how long it is kept."""

from __future__ import annotations

import stat
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.server import delete_before
from sanakit.serve.web.history import SHARED, History


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
