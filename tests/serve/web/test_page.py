"""The page without a browser: it builds, asks nobody else for anything, and its functions do what they say.

The engine is the real one with the embedded model, at 64 px and few steps.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image, ImageCms

from sanakit.adapters.attach import Use, recorded
from sanakit.cli import command_line
from sanakit.errors import SettingsError, SizeError
from sanakit.images.image import aspect_bins, encode, read_metadata
from sanakit.images.opening import open_image
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.storage import ImageStore

gradio = pytest.importorskip("gradio")

from sanakit.serve.web import parts  # noqa: E402
from sanakit.serve.web import settings as web_settings  # noqa: E402
from sanakit.serve.web.history import History  # noqa: E402
from sanakit.serve.web.mount import build_page, mount_page  # noqa: E402
from sanakit.serve.web.page import CREATE, EDIT, Page  # noqa: E402
from sanakit.serve.web.parts import source_and_mask  # noqa: E402
from sanakit.serve.web.studio import PAINTED, WHOLE  # noqa: E402
from tests.serve.web.drawing import METADATA, UNSTEERED  # noqa: E402

VISITOR = SimpleNamespace(session_hash="tab-1", username=None)


@pytest.fixture
def page(engine: Engine, history: History) -> Page:
    made = Page(engine, history)
    with gradio.Blocks(analytics_enabled=False):
        made.lay_out()
    return made


@pytest.fixture
def client(engine: Engine, tmp_path: Path) -> TestClient:
    app = mount_page(FastAPI(), build_page(engine, ImageStore(tmp_path / "pictures")))
    return TestClient(app, base_url="http://127.0.0.1")


# The page itself


def test_the_page_asks_no_other_host_for_anything(client: TestClient) -> None:
    page = client.get("/").text
    config = client.get("/config").json()
    loaded = re.findall(r"""<(?:script|img|iframe|link)[^>]*(?:src|href)=["'](https?:)?//""", page)
    assert loaded == []
    assert config["analytics_enabled"] is False
    assert config["stylesheets"] == []
    assert not re.search(
        r"url\(\s*[\"']?(?:https?:)?//|@import", client.get("/theme.css").text + config["css"]
    )


def test_files_outside_the_page_are_not_served(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (secret, "/etc/passwd", Path.cwd() / "pyproject.toml", tmp_path / "pictures"):
        assert client.get(f"/gradio_api/file={path}").status_code == 403
    for route in ("file=http://example.com/x", "file=https://example.com/x", "proxy=https://x.hf.space/y"):
        assert client.get(f"/gradio_api/{route}").status_code == 403


def test_an_upload_that_is_too_large_is_refused(client: TestClient) -> None:
    reply = client.post("/gradio_api/upload", files={"files": ("big.png", bytes(20_000_001))})
    assert reply.status_code == 413


def test_the_functions_of_the_buttons_can_not_be_called_as_an_api(client: TestClient) -> None:
    assert set(client.get("/gradio_api/info").json()["named_endpoints"]) == {"/generate", "/edit"}
    public = [
        one for one in client.get("/config").json()["dependencies"] if one["api_visibility"] == "public"
    ]
    assert [one["api_name"] for one in public] == ["generate", "edit"]


def test_the_mask_is_where_any_layer_is_painted() -> None:
    layer = Image.new("RGBA", (8, 8))
    layer.putpixel((2, 3), (229, 72, 77, 90))
    picture = Image.new("RGBA", (8, 8), "white")
    image, mask = source_and_mask({"background": picture, "layers": [layer, Image.new("RGBA", (8, 8))]})
    assert image is picture
    assert mask is not None
    assert mask.getbbox() == (2, 3, 3, 4)
    with pytest.raises(SettingsError, match="Choose an image"):
        source_and_mask({"background": None, "layers": [], "composite": None})


@pytest.mark.parametrize("mode", ["I;16", "L"])
def test_a_layer_comes_upright_in_srgb_and_8_bits(page: Page, mode: str) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    levels = np.full((4, 8), 128 * 256, np.uint16) if mode == "I;16" else np.full((4, 8), 128, np.uint8)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG", exif=exif, icc_profile=icc)
    layer = page.editor.image.convert_and_format_image(file.getvalue())
    assert (layer.mode, layer.size) == ("RGBA", (4, 8))
    assert "icc_profile" not in layer.info
    assert layer.getpixel((0, 0)) == (128, 128, 128, 255)


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_a_layers_profile_is_looked_at_before_its_colours_become_rgb(
    page: Page, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Afterwards a profile for CMYK or grey fits no more, and would be left out."""
    seen = []
    monkeypatch.setattr(parts, "in_srgb", lambda image: seen.append(image) or image)
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, "JPEG", icc_profile=b"of the press")
    page.editor.image.convert_and_format_image(file.getvalue())
    assert [(image.mode, image.info["icc_profile"]) for image in seen] == [(mode, b"of the press")]


def test_the_strength_at_first_leaves_something_of_the_image(engine: Engine, history: History) -> None:
    pocket = engine.specs["pocket"]
    sprint = replace(pocket, settings=replace(pocket.settings, steps=2), guidance_embed=True)
    two = SimpleNamespace(
        specs={"sprint": sprint, "pocket": pocket}, decoding=engine.decoding, residence=UNSTEERED
    )
    page = Page(two, history)  # pyright: ignore
    with gradio.Blocks(analytics_enabled=False):
        page.lay_out()
    strength = page.editor.strength
    assert strength.value == 0.5
    assert page.choose_what("sprint", WHOLE)[strength]["value"] == 0.5
    assert page.choose_what("pocket", WHOLE)[strength]["value"] == 0.6
    assert page.choose_what("sprint", PAINTED)[strength]["value"] == 1.0
    assert page.choose_model("pocket", WHOLE)[strength] == 0.6
    assert page.choose_model("pocket", PAINTED)[strength] == 1.0


def test_fewer_steps_lower_a_strength_that_would_be_all_of_them(engine: Engine, history: History) -> None:
    pocket = engine.specs["pocket"]
    sprint = replace(pocket, settings=replace(pocket.settings, steps=4), guidance_embed=True)
    two = SimpleNamespace(
        specs={"sprint": sprint, "pocket": pocket}, decoding=engine.decoding, residence=UNSTEERED
    )
    page = Page(two, history)  # pyright: ignore
    with gradio.Blocks(analytics_enabled=False):
        page.lay_out()
    assert page.editor.strength.value == 0.6
    assert page.choose_steps("sprint", 2, WHOLE, 0.6) == {page.editor.strength: 0.5}
    for kept in (("sprint", 3, WHOLE, 0.6), ("sprint", 2, WHOLE, 1.0), ("sprint", 2, PAINTED, 0.6)):
        assert page.choose_steps(*kept) == {page.editor.strength: gradio.skip()}
    assert page.choose_steps("pocket", 2, WHOLE, 0.6) == {page.editor.strength: gradio.skip()}


# The functions that the components are tied to


def test_the_button_draws_shows_and_tells_how_to_do_it_again(page: Page) -> None:
    values = ["pocket", "a lemon", "Cartoon", "", 64, 64, 2, 2.5, "cfg", "dpm", "7", 1]
    values += [None, WHOLE, 0.6, 0, 0, 0, 0]

    async def press() -> list[dict]:
        return [updates async for updates in page.draw(VISITOR, CREATE, True, "", *values)]  # pyright: ignore

    first, *_, last = asyncio.run(press())
    assert first[page.panel.seed] == "7"
    assert first[page.panel.cancel]["interactive"]
    details = page.stage.details
    assert json.loads(last[details.data])["prompt"] == "a lemon, cartoon"
    assert read_metadata(last[details.download]["value"])["seed"] == 7
    assert last[page.stage.images]["value"][0][1] == "a lemon, cartoon"
    assert not last[page.panel.cancel]["interactive"]

    restored = page.restore_shown(VISITOR, last[details.shown], "pocket")  # pyright: ignore
    assert restored[page.panel.prompt] == "a lemon"
    assert restored[page.panel.style]["value"] == "Cartoon"
    assert restored[page.panel.size]["value"] == web_settings.CUSTOM
    assert restored[page.panel.seed] == "7"


def test_a_new_seed_is_drawn_unless_it_is_kept(page: Page) -> None:
    values = ["pocket", "a lemon", "Plain", "", 64, 64, 2, 2.5, "apg", "dpm", "7", 1, True]
    seeds = {page._wish(CREATE, False, "7", tuple(values))[0].seed for _ in range(3)}
    assert len(seeds - {"7"}) == 3
    kept, _ = page._wish(CREATE, True, "7", tuple(values))
    assert (kept.seed, kept.guidance_kind, kept.words({})["guidance_kind"]) == ("7", "apg", "apg")
    assert kept.words({})["prompt_weights"] is True
    assert page._wish(CREATE, False, "6", tuple(values))[0].seed == "7"  # it was typed since the last drawing


def test_a_png_restores_its_settings_and_others_are_refused(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "drawn.png"
    path.write_bytes(encode(Image.new("RGB", (256, 192)), "PNG", METADATA | {"strength": 0.5}))
    restored = page.restore_file(str(path), "pocket")
    assert restored[page.mode] == EDIT
    assert (restored[page.panel.steps], restored[page.panel.guidance]) == (7, 3.5)
    assert restored[page.panel.guidance_kind] == "cfg"
    assert restored[page.panel.prompt_weights] is False
    others = {"guidance_kind": "apg,limit=2", "prompt_weights": True}
    path.write_bytes(encode(Image.new("RGB", (256, 192)), "PNG", METADATA | others))
    again = page.restore_file(str(path), "pocket")
    assert [again[getattr(page.panel, name)] for name in others] == list(others.values())
    assert restored[page.panel.seed] == str(2**63 - 1)  # more digits than a browser's numbers hold
    far = METADATA | {"steps": 150, "guidance": 0.5}
    path.write_bytes(encode(Image.new("RGB", (256, 192)), "PNG", far))
    beyond = page.restore_file(str(path), "pocket")
    for name, end in {"steps": "maximum", "guidance": "minimum"}.items():
        slider = beyond[getattr(page.panel, name)]
        assert slider["value"] == slider[end] == far[name], "the slider reaches as far"
    path.write_bytes(encode(Image.new("RGB", (8, 8)), "PNG"))
    with pytest.raises(SettingsError, match="no settings"):
        page.restore_file(str(path), "pocket")


@pytest.mark.parametrize(
    "broken",
    [
        {"steps": 0},
        {"steps": 10**9},
        {"guidance": float("nan")},
        {"seed": -1},
        {"guidance": -2.0},
        {"guidance_kind": "x"},
    ],
)
def test_a_file_with_impossible_settings_is_refused(broken: dict) -> None:
    with pytest.raises(SettingsError):
        web_settings.checked_settings(METADATA | broken)


def test_a_picture_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(page: Page) -> None:
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    assert len(file.getvalue()) < 20_000
    file.seek(0)
    with pytest.raises(SizeError, match="too many pixels"):
        open_image(file, "The image")
    with pytest.raises(SettingsError, match="not an image"):
        open_image(io.BytesIO(b"<svg/>"), "The image")
    with pytest.raises(gradio.Error, match="too many pixels"):
        page.editor.image.convert_and_format_image(file.getvalue())


# Settings


@pytest.mark.parametrize(
    "prompt",
    ["a red apple", 'it\'s "$HOME"; `rm -rf /` \\', "--help", "-x", "new\nline", "ein Bär 🐻", "=a", "!!"],
)
def test_the_command_line_means_the_same_to_the_command(prompt: str) -> None:
    metadata = METADATA | {"prompt": prompt, "negative_prompt": prompt}
    seen = parsed("generate", web_settings.command_line(metadata))
    assert (seen["prompt"], seen["negative"]) == (prompt, prompt)
    assert (seen["model"], seen["size"], seen["steps"]) == ("pocket", "256x192", 7)
    assert (seen["guidance"], seen["solver"], seen["seed"]) == (3.5, "euler", 2**63 - 1)
    assert seen["dialect"] is None
    seen = parsed("generate", web_settings.command_line(metadata | {"dialect": "native"}))
    assert seen["dialect"] == "native"
    seen = parsed("generate", web_settings.command_line(metadata | {"guidance_kind": "apg,limit=2"}))
    assert (seen["guidance_kind"], seen["prompt_weights"]) == ("apg,limit=2", False)
    seen = parsed("generate", web_settings.command_line(metadata | {"prompt_weights": True}))
    assert (seen["prompt_weights"], seen["prompt"]) == (True, prompt)
    seen = parsed("edit", web_settings.command_line(metadata | {"strength": 0.4}))
    assert (seen["prompt"], str(seen["image"]), seen["strength"]) == (prompt, web_settings.SOURCE, 0.4)


def test_an_image_of_another_dialect_is_told(engine: Engine) -> None:
    spec = engine.specs["pocket"]
    native = replace(spec, settings=replace(spec.settings, dialect="native"))
    told = "It was drawn in the dialect {}; this page draws in {}, which gives another image."
    assert web_settings.other_dialect(METADATA, spec) == ""
    assert web_settings.other_dialect(METADATA | {"dialect": "native"}, native) == ""
    told_of = web_settings.other_dialect(METADATA | {"dialect": "native"}, spec)
    assert told_of == told.format("native", "diffusers")
    assert web_settings.other_dialect(METADATA, native) == told.format("diffusers", "native")


def test_the_command_of_an_image_drawn_with_adapters_names_them() -> None:
    record = recorded([Use(name="a", file="my ink.safetensors", weight=0.5, fingerprint="12")])
    seen = parsed("generate", web_settings.command_line(METADATA | {"adapters": record}))
    assert list(seen["adapter"]) == ["my ink.safetensors:0.5"]


def parsed(command: str, line: str) -> dict[str, Any]:
    """What a command of `sana` takes a line of the shell for."""
    program, name, *words = shlex.split(line)
    assert (program, name) == ("sana", command)
    group = typer.main.get_group(command_line())
    with group.commands[command].make_context(command, words) as context:
        return context.params


@pytest.mark.parametrize("model", ["pocket", "sana-1.6b-1024"])
def test_styles_can_be_taken_off_again(engine: Engine, model: str) -> None:
    known = web_settings.styles(engine.specs["pocket"]) if model == "pocket" else web_settings._GENERAL
    assert ("Cartoon" in known) == (model == "pocket")
    for style in known:
        prompt = web_settings.add_style("a panda", style, known)
        assert web_settings.split_style(prompt, known) == ("a panda", style)


def test_every_size_that_is_offered_can_be_drawn(engine: Engine) -> None:
    spec = engine.specs["pocket"]
    offered = web_settings.sizes(spec)
    assert next(iter(offered.values())) == (256, 256)
    for width, height in offered.values():
        assert engine.check("pocket", "a lemon", width=width, height=height).size == (height, width)


def test_another_model_brings_its_own_styles_sizes_and_defaults(engine: Engine, history: History) -> None:
    pocket = engine.specs["pocket"]
    own = replace(pocket.settings, name="sana-1.6b-1024", width=1024, height=1024, steps=20, guidance=4.5)
    own = replace(own, styles={}, sizes=(), example_prompts=())
    large = replace(pocket, settings=own, sample_size=32)
    offered = web_settings.sizes(large)
    assert all((height, width) in aspect_bins(1024) for width, height in offered.values())
    assert len(set(offered.values())) == 5

    two = SimpleNamespace(
        specs={"pocket": pocket, "sana-1.6b-1024": large}, decoding=DecodingTurns(), residence=UNSTEERED
    )
    page = Page(two, history)  # pyright: ignore
    with gradio.Blocks(analytics_enabled=False):
        page.lay_out()
    assert page.panel.model.visible
    chosen = page.choose_model("sana-1.6b-1024")
    assert (chosen[page.panel.width], chosen[page.panel.steps]) == (1024, 20)
    assert "Photo" in chosen[page.panel.style]["choices"]
    assert chosen[page.panel.size]["value"] == "Square  1024 × 1024"
    assert page.choose_size("sana-1.6b-1024", "Wide  1344 × 768")[page.panel.width] == 1344
