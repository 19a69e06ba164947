"""Tiny stand-ins for the npm packages: an apple, a fox, and what must be left out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sanakit.pocket.data import sources

RED, ORANGE, BLUE = "#ff0000", "#ff8000", "#0000ff"
APPLE, FOX, FINGER, FLAG, COUPLE = "1f34e", "1f98a", "1f595", "1f1eb-1f1f7", "1f46b"


def _tile(colour: str) -> dict:
    """An icon whose left half is painted: 16 of 32 units."""
    return {"body": f'<path fill="{colour}" d="M0 0h16v32H0z"/>'}


def _webp(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (256, 256), colour).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def _emojibase() -> dict[str, bytes]:
    def emoji(code: str, label: str, order: int, group: int, tags: list[str]) -> dict:
        return {"hexcode": code, "label": label, "order": order, "group": group, "subgroup": 0, "tags": tags}

    data = [
        emoji("1F98A", "fox", 2, 0, ["animal", "fox"]),
        emoji("1F34E", "red apple", 1, 0, ["fruit", "apple", "food", "ripe", "diet"]),
        emoji("1F595", "middle finger", 3, 0, []),
        emoji("1F1EB-1F1F7", "flag: France", 4, 1, []),
        {"hexcode": "1F1E6", "label": "regional indicator A"},
    ]
    messages = {
        "groups": [{"order": 0, "message": "food & drink"}, {"order": 1, "message": "flags"}],
        "subgroups": [{"order": 0, "message": "fruit"}],
    }
    return {"en/data.json": json.dumps(data).encode(), "en/messages.json": json.dumps(messages).encode()}


def _iconify(codes: dict[str, str]) -> dict[str, bytes]:
    icons = {"apple": _tile(RED), "fox": _tile(ORANGE), "finger": _tile(BLUE), "flag": _tile(BLUE)}
    return {
        "icons.json": json.dumps({"icons": icons, "width": 32, "height": 32}).encode(),
        "chars.json": json.dumps(codes).encode(),
    }


def _write_tarball(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def write_tarball() -> Callable[[Path, dict[str, bytes]], None]:
    return _write_tarball


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds all five packages; npm does not exist."""
    cache = tmp_path / "packages"
    cache.mkdir()
    codes = {APPLE: "apple", FOX.upper() + "-FE0F": "fox", FINGER: "finger", FLAG: "flag"}
    contents = {
        "EMOJIBASE": _emojibase(),
        # the couple is not in the flat package: not Microsoft's
        "FLUENT_3D": {f"assets/{code}.webp": _webp(RED) for code in (APPLE, COUPLE, FINGER)},
        "FLUENT_COLOR": _iconify({}),
        "FLUENT_FLAT": _iconify(codes),
        "NOTO": _iconify(codes),
    }
    styles = {
        "FLUENT_3D": "fluent-3d",
        "FLUENT_COLOR": "fluent-color",
        "FLUENT_FLAT": "fluent-flat",
        "NOTO": "noto",
    }
    art = {}
    for constant, files in contents.items():
        path = cache / getattr(sources, constant).file_name
        _write_tarball(path, files)
        digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        package = replace(getattr(sources, constant), sha512=digest)
        monkeypatch.setattr(sources, constant, package)
        if constant in styles:
            art[styles[constant]] = package
    monkeypatch.setattr(sources, "ART_PACKAGES", art)
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    return cache
