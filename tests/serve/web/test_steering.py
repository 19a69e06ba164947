"""Steering by a picture on the page and its endpoints; without ControlNets there is nothing of it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw

from sanakit.cli import command_line as cli_words
from sanakit.errors import SettingsError
from sanakit.images.image import read_metadata
from sanakit.models.controlnet import ControlNet
from sanakit.pipelines.control import recorded_controls
from sanakit.serve.engine.engine import Engine
from sanakit.weights import load_transformer, save_controlnet

gradio = pytest.importorskip("gradio")

from sanakit.serve.web.history import SHARED, History  # noqa: E402
from sanakit.serve.web.mount import add_page  # noqa: E402
from sanakit.serve.web.page import CREATE, EDIT, Page  # noqa: E402
from sanakit.serve.web.settings import command_line, drawn_by  # noqa: E402
from sanakit.serve.web.steering import control_of, make_steering  # noqa: E402
from tests.serve.web.drawing import METADATA  # noqa: E402
from tests.serve.web.test_endpoints import SMALL, Program  # noqa: E402

VISITOR: Any = SimpleNamespace(session_hash="tab-1", username=None)
RECORD = "edges 0.8 from 0 to 0.5 by lines@90ab12cd34ef"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The embedded model with a ControlNet of random projections."""
    base, path = load_transformer("pocket"), tmp_path_factory.mktemp("nets") / "lines"
    torch.manual_seed(1)
    net = ControlNet.of(base, 2)
    with torch.no_grad():
        for block in net.controlnet:
            for name, parameter in block.named_parameters():
                if name.startswith(("before_proj", "after_proj")):
                    parameter.normal_(std=0.2)
    save_controlnet(path, net, base, hint="edges")
    running = Engine(["pocket"], device="cpu", threads=1, controls={"lines": str(path)})
    running.start()
    yield running
    running.close()


@pytest.fixture
def page(engine: Engine, history: History) -> Page:
    made = Page(engine, history)
    with gradio.Blocks(analytics_enabled=False):
        made.lay_out()
    return made


def sketch() -> Image.Image:
    image = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(image).ellipse((8, 8, 44, 56), fill=(0, 0, 0, 255))
    return image


def drawn_on(image: Image.Image | None) -> dict[str, Any]:
    return {"background": None, "layers": [], "composite": image}


def draw(page: Page, *steering: Any, mode: str = CREATE) -> tuple[list[str], str]:
    """Press the button; return the names of the images, and the status."""
    words = ("pocket", "a red apple", "Plain", "", 64, 64, 3, 2.5, "cfg", "dpm", "5", 1, False)
    edited = {"background": Image.new("RGBA", (64, 64), "green"), "layers": [], "composite": None}
    edit = (edited, "Whole image", 0.8, 0, 0, 0, 0)

    async def all_updates() -> list[Any]:
        return [one async for one in page.draw(VISITOR, mode, True, "", *words, *edit, *steering)]

    updates = asyncio.run(all_updates())
    names = [one[page.stage.names] for one in updates if page.stage.names in one]
    return (names[-1] if names else []), str(updates[-1].get(page.stage.status, ""))


def pixels(page: Page, names: list[str]) -> np.ndarray:
    (name,) = names
    return np.asarray(Image.open(page.history.file(SHARED, name))).astype(int)


OFF = ("", drawn_on(None), "", 1.0, 0.0, 1.0)


@pytest.mark.parametrize("mode", [CREATE, EDIT])
def test_a_sketch_steers_what_is_drawn(page: Page, mode: str) -> None:
    plain = pixels(page, draw(page, *OFF, mode=mode)[0])
    ignored = pixels(page, draw(page, "", drawn_on(sketch()), "", 1.0, 0.0, 1.0, mode=mode)[0])
    zero = pixels(page, draw(page, "lines", drawn_on(sketch()), "", 0, 0.0, 1.0, mode=mode)[0])
    steered = draw(page, "lines", drawn_on(sketch()), "blocks", 0.9, 0.0, 0.5, mode=mode)[0]
    assert np.array_equal(plain, ignored)
    assert np.array_equal(plain, zero)
    assert not np.array_equal(plain, pixels(page, steered))
    metadata = page.history.metadata(SHARED, steered[0])
    assert recorded_controls(metadata["control"])[0][:5] == ("blocks", "0.9", "0", "0.5", "lines")


@pytest.mark.parametrize("edited", [None, {}, drawn_on(None), drawn_on(Image.new("RGBA", (8, 8)))])
def test_a_controlnet_without_a_picture_says_what_to_do(page: Page, edited: Any) -> None:
    names, status = draw(page, "lines", edited, "", 1.0, 0.0, 1.0)
    assert names == []
    assert "Drop or draw an image to steer by, or set ControlNet to Off." in status


@pytest.mark.parametrize(
    ("steering", "said"),
    [
        (("pen", drawn_on(sketch()), "", 1.0, 0.0, 1.0), "no ControlNet"),
        (("lines", drawn_on(sketch()), "depth", 1.0, 0.0, 1.0), "does not exist"),
        (("lines", drawn_on(sketch()), "", 1.0, 0.5, 0.5), "the end must be later"),
    ],
)
def test_what_does_not_go_together_is_told_below_the_image(page: Page, steering: Any, said: str) -> None:
    names, status = draw(page, *steering)
    assert names == []
    assert said in status


def test_a_sketch_is_laid_on_white_and_a_picture_stays(page: Page) -> None:
    (one,) = control_of(["lines", drawn_on(sketch()), "", 1.0, 0.0, 1.0])
    assert one["image"].mode == "RGB"
    assert one["image"].getpixel((0, 0)) == (255, 255, 255)
    assert one["image"].getpixel((26, 32)) == (0, 0, 0)
    assert one.get("kind") is None
    picture = Image.new("RGBA", (8, 8), "red")
    (one,) = control_of(["lines", {"background": picture, "layers": []}, "as-is", 1.0, 0.0, 1.0])
    assert (one["image"].getpixel((0, 0)), one.get("kind")) == ((255, 0, 0), "as-is")


def test_a_page_without_controlnets_shows_nothing_of_it(engine: Engine) -> None:
    with gradio.Blocks(analytics_enabled=False) as blocks:
        nothing = make_steering({"pocket": {}}, engine.decoding)
    assert (nothing.inputs, nothing.changed, nothing.offered_by("pocket")) == ([], [], {})
    assert len(blocks.blocks) == 0
    assert control_of([]) == []


def test_each_model_offers_its_own(engine: Engine) -> None:
    with gradio.Blocks(analytics_enabled=False):
        steering = make_steering({"plain": [], "pocket": ["lines"]}, engine.decoding)
    group, net = steering.changed
    assert not group.visible
    shown = steering.offered_by("pocket")
    assert shown[group]["visible"]
    assert shown[net]["choices"] == [("Off", ""), ("lines", "lines")]
    assert steering.offered_by("plain")[group]["visible"] is False


# Settings of an image


def test_several_controls_and_restored_settings_are_told_of(page: Page) -> None:
    steered = METADATA | {"control": RECORD}
    several = command_line(METADATA | {"control": f"{RECORD}; as-is 1"})
    assert several.startswith("# 2 control images: ")
    specs = page.engine.specs
    model, notes = drawn_by(steered, specs, "pocket")
    assert model == "pocket"
    assert any("Steer by an image" in note for note in notes)
    assert drawn_by(METADATA, specs, "pocket") == ("pocket", [])


@pytest.mark.parametrize(("command", "more"), [("generate", {}), ("edit", {"strength": 0.4})])
def test_the_command_means_the_same_to_sana(command: str, more: dict[str, Any]) -> None:
    words = shlex.split(command_line(METADATA | more | {"control": RECORD}))
    assert words[:2] == ["sana", command]
    with typer.main.get_group(cli_words()).commands[command].make_context(command, words[2:]) as context:
        seen = context.params
    assert (seen["control"], seen["control_kind"]) == (Path("control.png"), "edges")
    assert (seen["control_scale"], seen["control_range"], seen["control_model"]) == (0.8, (0.0, 0.5), "lines")


@pytest.mark.parametrize(
    "text", ["edges", "edges much", "edges 1; ", "edges 1 from 0", "<b> 1", "mask 1 by x"]
)
def test_a_record_that_somebody_else_wrote_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="not a record of control"):
        recorded_controls(text)


def test_a_record_holds_any_name_and_no_controlnet_at_all() -> None:
    assert recorded_controls("") == []
    assert recorded_controls("as-is 1") == [("as-is", "1", "", "", "", "")]
    assert recorded_controls("as-is 1 of 00ff") == [("as-is", "1", "", "", "", "00ff")]
    assert recorded_controls("mask 1 of 00ff by x@11") == [("mask", "1", "", "", "x", "00ff")]
    assert recorded_controls("mask -0.5 by a b@c by d@00ff") == [("mask", "-0.5", "", "", "a b@c by d", "")]


# Endpoints


@pytest.fixture
def program(make_parts: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> Iterator[Program]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "page").mkdir()
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    with TestClient(parts.app, base_url="http://127.0.0.1") as client:
        yield Program(client, parts)


def test_programs_steer_too(program: Program, tmp_path: Path) -> None:
    image = program.upload(sketch().convert("RGB"))
    steering = {"control": image, "control_net": "lines", "control_scale": 0.7, "control_end": 0.5}
    drawn = []
    for told in ({}, {**steering, "control_scale": 0}, steering):
        files, about = program.call("/generate", prompt="a red apple", **SMALL, **told)
        drawn.append(np.asarray(Image.open(program.file(files[0], tmp_path))))
        assert ("control" in about["images"][0]) is bool(told)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert read_metadata(tmp_path / "fetched.png")["control"].startswith("edges 0.7 from 0 to 0.5 of ")
    small = {"steps": 2, "seed": 5}
    files, about = program.call("/edit", image=image, prompt="an apple", **small, **steering)
    assert about["images"][0]["control"].startswith("edges 0.7")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"control_net": "lines"}, "control, an image, is missing"),
        ({"control": True}, "control_net, the name of a ControlNet, is missing"),
        ({"control": True, "control_net": "pen"}, "no ControlNet 'pen'"),
        ({"control": True, "control_net": "lines", "control_kind": "depth"}, "'depth' does not exist"),
        ({"control": True, "control_net": "lines", "control_scale": 1000}, "Scale of control"),
    ],
)
def test_what_programs_leave_out_is_named(program: Program, told: dict[str, Any], said: str) -> None:
    told = {**told, "control": program.upload(sketch())} if "control" in told else told
    assert said in program.call("/generate", prompt="a red apple", **SMALL, **told)
