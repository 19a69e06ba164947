"""The gallery: pages, search, favourites, what is ticked deleted or downloaded, and how quick it is."""

from __future__ import annotations

import zipfile
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

gradio = pytest.importorskip("gradio")

from sanakit.errors import SettingsError  # noqa: E402
from sanakit.serve.web.history import SHARED, History  # noqa: E402
from sanakit.serve.web.kept import downloads  # noqa: E402
from sanakit.serve.web.kept import gallery as module  # noqa: E402
from sanakit.serve.web.kept.gallery import PER_PAGE, KeptGallery  # noqa: E402
from tests.serve.web.drawing import METADATA  # noqa: E402

VISITOR: Any = SimpleNamespace(session_hash="tab-1", username=None)


@pytest.fixture
def gallery(history: History) -> KeptGallery:
    made = KeptGallery(history, lambda _: SHARED)
    with gradio.Blocks(analytics_enabled=False):
        made.lay_out()
    return made


def kept(history: History, count: int, prompt: str = "a red apple") -> list[str]:
    image = Image.new("RGB", (8, 8))
    return [history.add(SHARED, image, METADATA | {"prompt": f"{prompt} {n}"}) for n in range(count)]


def shown(updates: dict, gallery: KeptGallery) -> list[str]:
    return [
        part.partition('"')[0]
        for part in updates[gallery.parts.grid].split('<button type="button" data-name="')[1:]
    ]


def test_pages_hold_so_many_images_and_their_ends_are_known(
    gallery: KeptGallery, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PER_PAGE", 3)
    names, parts = kept(history, 7)[::-1], gallery.parts
    first = gallery.list(VISITOR)
    assert shown(first, gallery) == names[:3]
    assert first[parts.count] == "1 to 3 of 7 images"
    assert (first[parts.newer]["interactive"], first[parts.older]["interactive"]) == (False, True)
    last = gallery.turn_on(VISITOR, "", False, 3)
    assert (shown(last, gallery), last[parts.first]) == (names[6:], 6)
    assert (last[parts.newer]["interactive"], last[parts.older]["interactive"]) == (True, False)
    assert shown(gallery.turn_back(VISITOR, "", False, 6), gallery) == names[3:6]
    assert gallery.list(VISITOR, "", False, 10**6)[parts.first] == 6
    assert gallery.list(VISITOR, "", False, -5)[parts.first] == 0


def test_a_search_finds_all_words_in_any_case_and_favourites_alone(
    gallery: KeptGallery, history: History
) -> None:
    apples, pears = kept(history, 2), kept(history, 2, "a green Pear")
    assert shown(gallery.search(VISITOR, "PEAR green", False), gallery) == pears[::-1]
    assert shown(gallery.search(VISITOR, "apple 1", False), gallery) == apples[1:]
    assert "No image fits" in gallery.search(VISITOR, "lemon", False)[gallery.parts.grid]
    history.mark(SHARED, apples[0], True)
    assert shown(gallery.search(VISITOR, "", True), gallery) == [apples[0]]
    assert shown(gallery.search(VISITOR, "pear", True), gallery) == []


def test_ticked_images_are_deleted_and_all_others_stay(gallery: KeptGallery, history: History) -> None:
    names = kept(history, 3)
    history.mark(SHARED, names[1], True)
    gallery.list(VISITOR)
    told = gallery.delete_ticked(VISITOR, f'["{names[1]}", "{names[2]}"]', "", False, 0)
    assert shown(told, gallery) == [names[0]]
    assert [name for name in history.store.names() if name.endswith(".png")] == [names[0]]
    assert [name for name in history.store.names() if names[1][:-4] in name or names[2][:-4] in name] == []
    with pytest.raises(SettingsError, match="Nothing was deleted"):
        gallery.delete_ticked(VISITOR, "[]", "", False, 0)
    with pytest.raises(SettingsError, match="belongs to a job"):
        gallery.delete_ticked(VISITOR, f'["{names[0]}", "job_x.png"]', "", False, 0)
    assert history.names(SHARED) == [names[0]]


def test_the_ticked_are_downloaded_or_else_all_that_the_search_finds(
    gallery: KeptGallery, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MOST_FILES", 2)
    apples, pears = kept(history, 2), kept(history, 1, "a pear")
    for ticks, words, expected in (
        (f'["{apples[0]}"]', "", [apples[0]]),
        ("[]", "pear", pears),
        ("", "", [*pears, *apples[::-1]]),
    ):
        made = gallery.download_ticked(VISITOR, ticks, words, False)[gallery.parts.archive]
        with zipfile.ZipFile(made["value"]) as file:
            assert file.namelist() == expected
        assert made["label"].startswith("Save 1 image, " if len(expected) == 1 else "Save 3 images, ")
    assert len(gallery.archives.files) == 2
    assert all(path.exists() for path in gallery.archives.files)


def test_a_page_of_many_images_opens_none_whole_and_reads_one_page_of_small_ones(
    gallery: KeptGallery, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kept(history, 1)[0]
    data, small = history.store.get(name), history.small(SHARED, name)
    stem = name[:18]
    for number in range(400):
        for ending, content in ((".png", data), (".small.webp", small)):
            path = history.store._place._root / f"{stem}{number:017d}-00000000{ending}"  # pyright: ignore
            path.write_bytes(content)
    read: list[str] = []
    whole = history.store.get
    monkeypatch.setattr(history.store, "get", lambda name: read.append(name) or whole(name))
    listed = gallery.list(VISITOR)
    assert len(shown(listed, gallery)) == PER_PAGE
    assert listed[gallery.parts.count] == "1 to 48 of 401 images"
    assert len(read) <= 2 * PER_PAGE
    assert all(name.endswith(".small.webp") for name in read)
    assert len(listed[gallery.parts.grid]) < PER_PAGE * 30_000
