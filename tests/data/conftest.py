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

from sanakit.data import pocket_sources as sources

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


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Makes the file of a picture: its left half one colour, its right half another."""
    return _picture


def _picture(
    width: int, height: int, left: str = "red", right: str = "blue", file_format: str = "JPEG", **options
) -> bytes:
    image = Image.new("RGB", (width, height), left)
    image.paste(Image.new("RGB", (width - width // 2, height), right), (width // 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven sound pictures of five ratios with two captions each, three broken ones, a foreign file."""
    place = tmp_path / "pictures"
    (place / "deep" / "er").mkdir(parents=True)
    sizes = [(256, 256)] * 4 + [(512, 256)] * 3 + [(300, 400), (1024, 256), (256, 512), (260, 250)]
    for number, (width, height) in enumerate(sizes):
        name = ("", "deep/", "deep/er/")[number % 3] + f"{number:02}"
        (place / f"{name}.jpg").write_bytes(_picture(width, height))
        (place / f"{name}.txt").write_text(f"picture {number}\nanother {number}\n", encoding="utf-8")
    whole = _picture(256, 256)
    (place / "empty.jpg").write_bytes(b"")
    (place / "foreign.png").write_bytes(b"this is no picture" * 20)
    (place / "truncated.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (place / "notes.doc").write_bytes(b"words")
    return place


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of random numbers, 32 pixels to a latent, made for 128 px."""
    from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
    from sanakit.models.gemma2 import Gemma2, Gemma2Config
    from sanakit.models.sana import Sana, SanaConfig
    from sanakit.text.encoder import TextEncoder
    from sanakit.text.tokenizer import train_tokenizer
    from sanakit.weights import save_diffusers

    stages = (Stage(8, 0), *(Stage(8, 1),) * 5)
    sizes = DCAEConfig(encoder=stages, decoder=stages, latent_channels=8, head_dim=8, scaling_factor=0.5)
    transformer = SanaConfig(
        depth=1, width=32, cross_heads=2, text_width=24, latent_channels=8, sample_size=4
    )
    text = Gemma2Config(
        vocab_size=600, width=24, depth=1, heads=2, kv_heads=1, head_dim=12, mlp_width=48, query_scalar=12
    )
    tokenizer = train_tokenizer(["picture 1, another 2", "two green foxes"] * 20, 520)
    return save_diffusers(
        tmp_path_factory.mktemp("models") / "tiny",
        transformer=Sana(transformer).eval(),
        autoencoder=DCAE(sizes).eval(),
        text_encoder=TextEncoder(Gemma2(text).eval(), tokenizer, "Draw this: ", 20),
        name="tiny",
    )
