"""What was drawn on the page: how long it is kept."""

from __future__ import annotations

import time
from pathlib import Path

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
