"""Settings in a visitor's file: ours as they are, other programs' as far as they mean the same, told."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sanakit.errors import SettingsError
from sanakit.images.image import encode
from sanakit.serve.engine.engine import Engine
from sanakit.serve.web.kept.from_file import settings_in
from tests.serve.web.drawing import METADATA

WEB_UI = (
    "a (red:1.5) apple\nNegative prompt: a dog\n"
    "Steps: 20, Sampler: {}, CFG scale: 7, Seed: 123, Size: 512x768, Model: dreamer, Clip skip: 2"
)


def written(path: Path, text: str) -> Path:
    chunks = PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(path, "PNG", pnginfo=chunks)
    return path


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_our_own_settings_come_back_from_every_format(
    engine: Engine, tmp_path: Path, file_format: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(encode(Image.new("RGB", (8, 8)), file_format, METADATA))
    assert settings_in(path, engine.specs, "pocket") == (METADATA, [])


def test_settings_of_another_program_fill_the_fields_and_the_rest_is_named(
    engine: Engine, tmp_path: Path
) -> None:
    found, notes = settings_in(written(tmp_path / "a", WEB_UI.format("Euler a")), engine.specs, "pocket")
    assert (found["prompt"], found["negative_prompt"]) == ("a (red:1.5) apple", "a dog")
    assert (found["steps"], found["guidance"], found["seed"]) == (20, 7.0, 123)
    assert (found["width"], found["height"], found["model"]) == (512, 768, "pocket")
    assert (found["solver"], found["prompt_weights"]) == ("dpm", True)
    assert notes[0] == "These are settings of Stable Diffusion web UI: pocket draws another image by them."
    assert all(name in notes[1] for name in ("Sampler: Euler a", "Model: dreamer", "Clip skip: 2"))
    found, notes = settings_in(written(tmp_path / "a", WEB_UI.format("Euler")), engine.specs, "pocket")
    assert found["solver"] == "euler"
    assert "Sampler" not in notes[1]


def test_files_without_settings_or_with_impossible_ones_are_refused(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for text, told in (("a cat", "no settings"), (WEB_UI.replace("20", "0").format("x"), "number of steps")):
        with pytest.raises(SettingsError, match=told):
            settings_in(written(path, text), engine.specs, "pocket")
    path.write_text("x")
    with pytest.raises(SettingsError, match="not an image"):
        settings_in(path, engine.specs, "pocket")
