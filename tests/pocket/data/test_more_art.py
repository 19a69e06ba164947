from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from sanakit.errors import DataError
from sanakit.pocket.data import dataset as pocket
from sanakit.pocket.data import more_art, sources
from sanakit.pocket.data.more_art import FXEMOJI, MORE_STYLES, NOTO_V1, choose_more, icon_of
from sanakit.pocket.data.more_icons import LEFT_OUT, NAMES
from sanakit.pocket.words.captions import STYLES

ICONS = {"dog": "1", "dogside": "2", "red-apple": "3", "redapple": "4", "mans-shoe": "5", "direct-hit": "6"}


def test_an_icon_is_found_by_the_name_it_spells_or_by_the_table():
    assert icon_of("red apple", "noto-v1", ICONS) == "red-apple"
    assert icon_of("man\u2019s shoe", "noto-v1", ICONS) == "mans-shoe"
    assert icon_of("bullseye", "noto-v1", ICONS) == "direct-hit"
    assert icon_of("zebra", "noto-v1", ICONS) is None


def test_the_whole_animal_and_its_face_are_not_mixed_up():
    assert icon_of("dog", "fxemoji", ICONS) == "dogside"
    assert icon_of("dog face", "fxemoji", ICONS) == "dog"
    assert icon_of("construction", "fxemoji", {"construction": ""}) is None  # of a building: the table's


def test_an_icon_in_another_colour_than_the_phrase_says_is_left_out():
    assert icon_of("red heart", "noto-v1", {"red-heart": ""}) is None
    assert icon_of("automobile", "noto-v1", {"automobile": ""}) is None


@pytest.mark.parametrize("style", list(NAMES))
def test_no_icon_stands_for_two_concepts(style: str):
    assert len(set(NAMES[style].values())) == len(NAMES[style])
    assert not NAMES[style].keys() & LEFT_OUT[style]


def test_styles_are_called_by_words_of_their_own():
    common = {word for style in STYLES for word in f"{style.tag} {style.suffix}".split()} - {"emoji"}
    assert not common & {word for style in MORE_STYLES for word in f"{style.tag} {style.suffix}".split()}


def test_the_licence_is_apache():
    assert {package.licence for package in more_art.PACKAGES.values()} == {"Apache-2.0"}


def _tarball(path: Path, files: dict[str, object]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def tarballs(tmp_path: Path) -> dict[sources.Package, Path]:
    emoji = {
        "hexcode": "1F34E",
        "label": "red apple",
        "order": 1,
        "group": 0,
        "subgroup": 0,
        "tags": ["fruit"],
    }
    message = [{"order": 0, "message": "food & drink"}]
    tile = {"body": '<path fill="#ff0000" d="M0 0h16v32H0z"/>'}
    icons = {"icons": {"red-apple": tile, "redapple": tile, "atm": tile}, "width": 32, "height": 32}
    data = {"en/data.json": [emoji], "en/messages.json": {"groups": message, "subgroups": message}}
    return {
        sources.EMOJIBASE: _tarball(tmp_path / "emojibase.tgz", data),
        NOTO_V1: _tarball(tmp_path / "noto.tgz", {"icons.json": icons}),
        FXEMOJI: _tarball(tmp_path / "fx.tgz", {"icons.json": icons}),
    }


def test_rows_say_style_licence_and_source(tarballs: dict[sources.Package, Path]):
    rows = [row for row, _ in choose_more(tarballs)]
    assert [(row.concept, row.style) for row in rows] == [("red apple", "noto-v1"), ("red apple", "fxemoji")]
    assert rows[0].captions[0] == "a retro illustration of a red apple"
    assert (rows[1].licence, rows[1].source) == (
        "Apache-2.0",
        "@iconify-json/fxemoji@1.2.2 (Mozilla Firefox OS Emoji)",
    )


@pytest.fixture
def obtained(tarballs: dict[sources.Package, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(sources, "obtain", lambda package, cache: tarballs[package])


@pytest.mark.usefixtures("obtained")
def test_the_built_set_opens_as_pockets_does(tmp_path: Path):
    built = more_art.build_more(tmp_path / "more", workers=1)
    assert built.images.shape == (2, 256, 256, 3)
    assert built.images[0, 128, 64].tolist() == [255, 0, 0]
    assert built.alpha[0, 128, 200] == 0
    assert [entry["images"] for entry in built.sources["packages"]] == [0, 1, 1]
    assert pocket.open_pocket(tmp_path / "more").rows == built.rows


@pytest.mark.usefixtures("obtained")
def test_a_folder_in_use_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="in use"):
        more_art.build_more(tmp_path)
