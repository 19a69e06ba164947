"""Tiny stand-ins for the npm packages of animated emoji."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sanakit.pocket.data import sources
from sanakit.pocket.data.clips import art
from tests.pocket.data.clips.animations import COLOURS, COMPUTER, FOX, STILL, animation


def _emojibase() -> dict[str, bytes]:
    def emoji(code: str, label: str, order: int, **more) -> dict:
        return {"hexcode": code, "label": label, "order": order, "group": 0, "subgroup": 0, "tags": []} | more

    tones = [
        {"hexcode": "1F449-1F3FF", "label": "backhand index pointing right: dark skin tone", "tone": 5},
        {"hexcode": "1F449-1F3FB-1F3FF", "label": "two", "tone": [1, 5]},
    ]
    data = [
        emoji("1F98A", "fox", 2, tags=["animal"]),
        emoji("1F449", "backhand index pointing right", 1, skins=tones),
        emoji("1F9D1-200D-1F4BB", "person at a computer", 3),
        emoji("1F46B", "woman and man holding hands", 4),
        emoji("1F34E", "red apple", 5),
    ]
    messages = {
        "groups": [{"order": 0, "message": "animals & nature"}],
        "subgroups": [{"order": 0, "message": "animal-mammal"}],
        "skinTones": [
            {"key": key, "message": f"{key} skin tone"}
            for key in ("dark", "light", "medium", "medium-dark", "medium-light")
        ],
    }
    return {"en/data.json": json.dumps(data).encode(), "en/messages.json": json.dumps(messages).encode()}


@pytest.fixture
def packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_tarball: Callable[[Path, dict[str, bytes]], None]
) -> Path:
    """A cache that holds all six packages; npm does not exist."""
    cache = tmp_path / "packages"
    cache.mkdir()
    still = io.BytesIO()
    Image.new("RGBA", (256, 256), "red").save(still, "WEBP", lossless=True)
    files = {f"assets/{code}.webp": animation(colour) for code, colour in COLOURS.items()}
    files[f"assets/{STILL}.webp"] = still.getvalue()
    names = sorted(files)
    halves = [{name: files[name] for name in names[i::2]} for i in range(2)]
    # the couple is not in the flat package: not Microsoft's; nor is the hand, by mistake
    flat = {"chars.json": json.dumps({FOX: "fox", COMPUTER: "person", STILL: "apple"}).encode()}

    def put(package: sources.Package, content: dict[str, bytes]) -> sources.Package:
        path = cache / package.file_name
        write_tarball(path, content)
        digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        return replace(package, sha512=digest)

    emojibase, fluent_flat = put(sources.EMOJIBASE, _emojibase()), put(sources.FLUENT_FLAT, flat)
    animated = tuple(put(package, half) for package, half in zip(art.ANIMATED[:2], halves, strict=True))
    monkeypatch.setattr(sources, "EMOJIBASE", emojibase)
    monkeypatch.setattr(sources, "FLUENT_FLAT", fluent_flat)
    monkeypatch.setattr(art, "ANIMATED", animated)
    monkeypatch.setattr(art, "PACKAGES", (emojibase, fluent_flat, *animated))
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    return cache
