"""What tells a data set from another, and names kept in little memory."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sanakit.data.read.captions import Caption
from sanakit.data.read.open import open_source
from sanakit.data.read.sidecar import SIDECAR, SidecarWriter
from sanakit.data.read.source import Names, data_fingerprint, fingerprint_of


def images_and_all(place: Path) -> tuple[str, str]:
    source = open_source(place)
    return source.fingerprint(), data_fingerprint(source)


def add(folder: Path, *captions: Caption, key: str = "00.jpg") -> None:
    with SidecarWriter(folder / SIDECAR) as sidecar:
        sidecar.add(key, captions)


CAPTION_CHANGES: dict[str, Callable[[Path], object]] = {
    "a text": lambda folder: (folder / "00.txt").write_text("other words"),
    "a text of the same length": lambda folder: (folder / "00.txt").write_text("picture 9\nanother 0\n"),
    "a text less": lambda folder: (folder / "00.txt").unlink(),
    "JSON beside an image": lambda folder: (folder / "00.json").write_text('"a fox"'),
    "a table": lambda folder: (folder / "metadata.csv").write_text("file_name,text\n00.jpg,a fox\n"),
    "a sidecar": lambda folder: add(folder, Caption("a fox")),
}


@pytest.mark.parametrize("change", CAPTION_CHANGES)
def test_other_captions_are_another_data_set_of_the_same_images(folder: Path, change: str) -> None:
    images, everything = images_and_all(folder)
    CAPTION_CHANGES[change](folder)
    changed = images_and_all(folder)
    assert changed[0] == images
    assert changed[1] != everything
    assert len(everything) == 64


def test_other_images_are_another_data_set(folder: Path) -> None:
    seen = {images_and_all(folder)}
    os.utime(folder / "00.jpg", ns=(1, 1))
    seen.add(images_and_all(folder))
    (folder / "00.jpg").unlink()
    seen.add(images_and_all(folder))
    (folder / "new.jpg").write_bytes(b"x")
    seen.add(images_and_all(folder))
    assert len({images for images, _ in seen}) == len({everything for _, everything in seen}) == 4
    assert fingerprint_of([("a", folder / "gone")]) == fingerprint_of([("a", folder / "gone too")])


def test_what_is_not_used_does_not_count(folder: Path) -> None:
    before = images_and_all(folder)
    (folder / "lost.txt").write_text("a caption without an image")
    (folder / "notes.doc").write_text("other words")
    add(folder, Caption("a fox"), key="gone.jpg")
    assert images_and_all(folder) == before


def test_a_copy_that_keeps_times_is_the_same_data_set(folder: Path, tmp_path: Path) -> None:
    add(folder, Caption("a fox", 30.0))
    assert images_and_all(folder) == images_and_all(Path(shutil.copytree(folder, tmp_path / "copy")))


def test_scores_and_their_order_in_a_sidecar_count_as_they_are_drawn(folder: Path, tmp_path: Path) -> None:
    places = []
    for number in range(3):
        places.append(Path(shutil.copytree(folder, tmp_path / str(number))))
        rows = [
            ("00.jpg", Caption("a fox", 30.0)),
            ("03.jpg", Caption("an owl", 31.0 if number < 2 else 32.0)),
        ]
        for key, caption in rows if number != 1 else reversed(rows):
            add(places[-1], caption, key=key)
    same, reordered, rescored = (images_and_all(place)[1] for place in places)
    assert same == reordered != rescored


def test_a_changed_shard_is_another_data_set(tmp_path: Path, tar) -> None:
    members = [("fox.jpg", b"x"), ("fox.txt", b"a fox")]
    place = tar(tmp_path / "s.tar", members)
    os.utime(place, ns=(1, 1))
    before = data_fingerprint(open_source(place))
    assert before == data_fingerprint(open_source(place))
    tar(place, [*members, ("owl.jpg", b"y")])
    assert data_fingerprint(open_source(place)) != before


def test_a_sidecars_entries_for_other_images_are_named(folder: Path) -> None:
    for key in ("00.jpg", "gone.jpg", "gone too.jpg"):
        add(folder, Caption("a fox"), key=key)
    with (folder / SIDECAR).open("a") as file:
        file.write('{"key": "03.jpg", "captions": ["a mistyped row"]}\n')
    ignored = open_source(folder).ignored
    assert ignored[SIDECAR] == "has captions of images that are not here: gone.jpg and 1 more"
    assert ignored[f"{SIDECAR}, line 4"].startswith("is not a whole row of captions")


def test_names_come_back_as_they_were() -> None:
    texts = ["a", "", "é/ü.jpg", "b\udcff"]
    names = pickle.loads(pickle.dumps(Names(texts)))
    assert [names[index] for index in range(len(names))] == texts
