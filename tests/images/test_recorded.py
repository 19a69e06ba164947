"""What images' files say of how they were made: our own settings, those of other programs, or none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from sanakit.errors import SettingsError
from sanakit.images.image import save
from sanakit.images.recorded import COMFYUI, FOOOCUS, SANAKIT, WEB_UI, describe_image

OURS = {"prompt": "a fox", "negative_prompt": "", "width": 64, "height": 32, "steps": 2, "model": "tiny"}
THEIRS = (
    "a (red:1.3) fox,\nin snow, Steps: no\nNegative prompt: blue,\ngreen\n"
    'Steps: 20, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 123, Size: 512x768, Model: "a, b", Version: v1.10'
)
NODES = {"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}
WORKFLOW = {"nodes": [{"id": 3, "type": "KSampler"}], "links": []}
IMAGE = Image.new("RGB", (64, 32), "teal")


def written(path: Path, chunks: dict[str, str] | None = None, **options: Any) -> Path:
    about = PngInfo()
    for name, text in (chunks or {}).items():
        about.add_itxt(name, text)
    IMAGE.save(path, **({"pnginfo": about} if chunks else {}), **options)
    return path


def commented(raw: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = raw
    return exif


def test_our_own_settings_are_told_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = save(IMAGE, tmp_path / "fox.png", OURS).rename(tmp_path / "fox.safetensors")
    facts = describe_image(path)
    assert facts is not None
    assert (facts.by, facts.format, facts.width, facts.height) == (SANAKIT, "PNG", 64, 32)
    assert facts.settings == OURS
    assert facts.notes == facts.chunks == ()


def test_the_web_uis_text_is_read_into_its_fields(tmp_path: Path) -> None:
    facts = describe_image(written(tmp_path / "a.png", {"parameters": THEIRS}))
    assert facts is not None
    assert facts.by == WEB_UI
    assert facts.settings == {
        **{"prompt": "a (red:1.3) fox,\nin snow, Steps: no", "negative_prompt": "blue,\ngreen"},
        **{"steps": 20, "seed": 123, "width": 512, "height": 768, "guidance": 7.5},
    }
    assert facts.others == {"Sampler": "DPM++ 2M", "Model": "a, b", "Version": "v1.10"}
    assert "sana draws another image" in facts.notes[0]


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize(
    "raw",
    [b"UNICODE\0" + "a fóx\nSteps: 4, Seed: 1".encode("utf-16-be"), b"ASCII\0\0\0a fox\nSteps: 4, Seed: 1"],
)
def test_it_is_read_from_the_exif_comment_of_other_formats(tmp_path: Path, suffix: str, raw: bytes) -> None:
    facts = describe_image(written(tmp_path / f"a.{suffix}", exif=commented(raw)))
    assert facts is not None
    assert (facts.by, facts.settings["steps"], facts.settings["seed"]) == (WEB_UI, 4, 1)
    assert facts.settings["prompt"] == ("a fóx" if raw.startswith(b"UNICODE") else "a fox")


def test_a_graph_of_comfyui_is_named_by_its_chunks(tmp_path: Path) -> None:
    chunks = {"prompt": json.dumps(NODES), "workflow": json.dumps(WORKFLOW)}
    facts = describe_image(written(tmp_path / "a.png", chunks))
    assert facts is not None
    assert (facts.by, facts.chunks, facts.settings) == (COMFYUI, ("prompt", "workflow"), {})
    both = describe_image(written(tmp_path / "b.png", {**chunks, "parameters": THEIRS}))
    assert both is not None
    assert (both.by, both.chunks) == (WEB_UI, ("prompt", "workflow"))


@pytest.mark.parametrize("text", ["a prompt", "[1]", "{}", '{"a": 1}', '{"nodes": 3}', "[" * 100_000])
def test_another_prompt_chunk_is_no_graph(tmp_path: Path, text: str) -> None:
    facts = describe_image(written(tmp_path / "a.png", {"prompt": text}))
    assert facts is not None
    assert (facts.by, facts.chunks) == ("", ())


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_without_settings_it_is_told(tmp_path: Path, suffix: str) -> None:
    facts = describe_image(written(tmp_path / f"a.{suffix}"))
    assert facts is not None
    assert (facts.by, facts.settings) == ("", {})
    assert "no settings: how" in facts.notes[0]


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_our_settings_are_told_of_other_formats_too(tmp_path: Path, suffix: str) -> None:
    facts = describe_image(save(IMAGE, tmp_path / f"fox.{suffix}", OURS))
    assert facts is not None
    assert (facts.by, facts.settings) == (SANAKIT, OURS)


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, read = [], Image.open

    def counting(*given: Any, **settings: Any) -> Image.Image:
        opened.append(given)
        return read(*given, **settings)

    monkeypatch.setattr(Image, "open", counting)
    for suffix in ("png", "jpg", "webp"):
        facts = describe_image(save(IMAGE, tmp_path / f"fox.{suffix}", OURS))
        assert facts is not None
        assert facts.settings == OURS
    assert len(opened) == 3


def test_fooocus_is_known_by_either_of_its_texts(tmp_path: Path) -> None:
    text = "a fox\nSteps: 30, Size: 64x32, Seed: 1, Version: Fooocus v2.5"
    for number, chunk in enumerate((text, json.dumps({"prompt": "a fox", "steps": 30, "seed": "1"}))):
        facts = describe_image(written(tmp_path / f"{number}.png", {"parameters": chunk}))
        assert facts is not None
        assert (facts.by, facts.settings["steps"], facts.settings["seed"]) == (FOOOCUS, 30, 1)


def test_a_graphs_settings_are_told_with_it(tmp_path: Path) -> None:
    inputs = {"seed": 1, "steps": 4, "cfg": 2, "positive": ["2", 0]}
    graph = {"1": {"class_type": "KSampler", "inputs": inputs}}
    graph["2"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}}
    facts = describe_image(written(tmp_path / "a.png", {"prompt": json.dumps(graph)}))
    assert facts is not None
    assert (facts.by, facts.settings["prompt"], facts.settings["steps"]) == (COMFYUI, "a fox", 4)


def test_other_places_are_none_and_damaged_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "a.png", tmp_path / "missing", tmp_path / "pipe", "pocket", "\0"):
        assert describe_image(place) is None
    whole = written(tmp_path / "b.jpg", quality=95).read_bytes()
    (tmp_path / "c.jpg").write_bytes(whole[:200])
    with pytest.raises(SettingsError, match="is damaged, or not an image"):
        describe_image(tmp_path / "c.jpg")
