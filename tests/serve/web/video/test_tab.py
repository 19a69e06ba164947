"""The functions behind the tab: what the controls say is drawn, shown, restored and stopped; and the page."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gradio.data_classes import ImageData
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.database import now
from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.web.history import SHARED, drawn_before
from sanakit.serve.web.mount import build_page, mount_page
from sanakit.serve.web.video.panel import AS_IMAGE
from sanakit.serve.web.video.tab import _ASKED, VideoTab

VISITOR = SimpleNamespace(session_hash="tab-1", username=None)
ANN = SimpleNamespace(session_hash="tab-1", username="ann")
CONTROLS: dict[str, Any] = {
    **{"model": "tiny-video", "prompt": "a red apple", "image": None, "frames": 5, "size": "Custom"},
    **{"width": 64, "height": 64, "rate": 8, "motion": 0, "seed": "7", "keep_seed": True, "drawn_seed": ""},
    **{"prompt_weights": False, "negative_prompt": "", "steps": 2, "guidance": 3.0, "guidance_kind": "cfg"},
    **{"solver": "dpm"},
}


def draw(tab: VideoTab, visitor: Any = VISITOR, **changes: Any) -> list[dict[Any, Any]]:
    values = [(CONTROLS | changes)[name] for name in _ASKED]

    async def follow() -> list[dict[Any, Any]]:
        return [update async for update in tab.draw(visitor, *values)]

    return asyncio.run(follow())


def test_what_the_controls_say_is_drawn_and_shown_with_its_settings(tab: VideoTab) -> None:
    first, *_, last = draw(tab)
    panel, stage = tab.panel, tab.stage
    assert (first[panel.seed], first[panel.cancel]["interactive"]) == ("7", True)
    assert (last[panel.draw]["interactive"], last[stage.details]["visible"]) == (True, True)
    told = json.loads(last[stage.data])
    assert {"seed": 7, "frames": 5, "steps": 2, "width": 64, "fps": "8"}.items() <= told.items()
    assert "--seed=7" in last[stage.command]
    path = Path(last[stage.download]["value"])
    shown, hidden = (
        (stage.video, stage.animation) if path.suffix == ".mp4" else (stage.animation, stage.video)
    )
    assert (last[shown]["value"], last[shown]["visible"], hidden in last) == (str(path), True, False)
    assert last[stage.strip]["value"].count("<img") == 5
    restored = tab.restore_file(str(path), "tiny-video")
    assert {
        panel.prompt: "a red apple",
        panel.seed: "7",
        panel.steps: 2,
        panel.rate: 8.0,
    }.items() <= restored.items()
    assert restored[panel.frames]["value"] == 5
    with pytest.raises(SettingsError, match="Choose a clip"):
        tab.restore_file(None, "tiny-video")


def test_a_random_seed_is_another_one_each_time_and_is_told(tab: VideoTab) -> None:
    wrong = {"prompt": "", "keep_seed": False}  # nothing is drawn
    seeds = [draw(tab, seed=seed, drawn_seed=seed, **wrong)[0][tab.panel.seed] for seed in ("7", "7", "")]
    assert len({*seeds, "7"}) == 4
    typed = draw(tab, seed="8", drawn_seed="7", **wrong)
    assert typed[0][tab.panel.seed] == "8"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": None}, "number of frames"),
        ({"size": AS_IMAGE}, "no image to take the shape of"),
        ({"steps": 1.5}, "number of steps"),
        ({"prompt": ""}, "Write what to draw"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_in_the_status(tab: VideoTab, changes: dict[str, Any], words: str) -> None:
    last = draw(tab, **changes)[-1]
    assert words in last[tab.stage.status]
    assert last[tab.panel.draw]["interactive"] is True


def test_the_shape_of_an_image_is_that_of_the_clip(tab: VideoTab) -> None:
    image = Image.new("RGBA", (64, 96), "teal")
    told = json.loads(draw(tab, image=image, size=AS_IMAGE, steps=1)[-1][tab.stage.data])
    assert told["width"] < told["height"]
    chosen = tab.choose_image("tiny-video", image)
    assert chosen[tab.panel.size]["value"] == AS_IMAGE
    assert tab.choose_image("tiny-video", None)[tab.panel.size]["value"].startswith("Own")


def test_choices_set_what_depends_on_them(tab: VideoTab) -> None:
    panel = tab.panel
    chosen = tab.choose_size("tiny-video", "Own  96 × 64")
    assert (chosen[panel.width], chosen[panel.height], chosen[panel.sides]["visible"]) == (96, 64, False)
    assert tab.choose_size("tiny-video", "Custom")[panel.sides]["visible"] is True
    assert tab.choose_frames("tiny-video", 17, 8)[panel.frames]["label"] == "Frames (2 s)"
    assert tab.typed_seed(" ") == {panel.keep_seed: False}
    assert tab.roll()[panel.keep_seed] is True
    assert tab.choose_model("tiny-video", None)[panel.steps]["value"] == 3


def test_a_clip_is_charged_and_belongs_to_its_login(tab: VideoTab) -> None:
    charged: list[Any] = []

    def charge(name: str, count: int) -> Any:
        charged.append((name, count))
        if len(charged) > 1:
            raise SettingsError("Too many today.")
        return lambda: charged.append("back")

    tab.charge = charge
    last = draw(tab, ANN, steps=1)[-1]
    name = Path(last[tab.stage.download]["value"]).name
    with pytest.raises(SettingsError, match="no longer exists"):
        tab.history.file(SHARED, name)
    assert tab.history.file("user ann", name).is_file()
    assert drawn_before(name, now().replace(year=9998))
    draw(tab, ANN, frames=6)  # the autoencoder holds no such number
    assert charged == [("ann", 2)]  # 5 frames are two latents
    assert "Too many today." in draw(tab, ANN)[-1][tab.stage.status]


def test_a_first_frame_is_decoded_in_its_turn_and_upright(
    tab: VideoTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    Image.new("L", (8, 4), 128).save(path, exif=exif)
    held, turn = [], tab.turns.turn
    monkeypatch.setattr(tab.turns, "turn", lambda pixels: held.append(pixels) or turn(pixels))
    read = tab.panel.image.preprocess
    image = read(ImageData(path=str(path)))
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGBA", (4, 8), (128, 128, 128, 255))
    assert read(None) is None
    assert held == [32, 0]


@pytest.mark.parametrize(
    ("content", "told"), [(b"<svg/>", "not an image"), (b"", "not an image"), (None, "upload it")]
)
def test_a_file_that_is_no_image_is_refused_as_first_frame(
    tab: VideoTab, tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content or b"")
    given = ImageData(url="data:image/png;base64,AAAA") if content is None else ImageData(path=str(path))
    with pytest.raises(gr.Error, match=told) as error:
        tab.panel.image.preprocess(given)
    assert 'class="told-at at:video-begin at:video-image"' in error.value.message


@pytest.mark.parametrize("images", [True, False])
def test_a_page_has_what_there_are_models_for(
    clip_engine: ClipEngine, engine: Engine, tmp_path: Path, images: bool
) -> None:
    drawing = engine if images else Engine([], device="cpu")
    app = mount_page(FastAPI(), build_page(drawing, ImageStore(tmp_path / "pictures"), clips=clip_engine))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        config = client.get("/config").json()
        info = client.get("/gradio_api/info").json()["named_endpoints"]
    ids = {one["props"].get("elem_id") for one in config["components"]}
    assert {"head", "mode", "shade", "video", "video-draw", "video-prompt"} <= ids
    assert ({"draw", "editor", "overview"} <= ids, "draw" in ids) == (images, images)
    mode = next(one["props"] for one in config["components"] if one["props"].get("elem_id") == "mode")
    modes = [name for name, _ in mode["choices"]]
    assert modes == (["Create", "Edit", "Gallery", "Live", "Video"] if images else ["Video"])
    assert mode["value"] == modes[0]
    assert set(info) == ({"/generate", "/edit"} if images else set())


def test_without_a_video_model_there_is_no_tab(engine: Engine, tmp_path: Path) -> None:
    with gr.Blocks(analytics_enabled=False):
        blocks = build_page(engine, ImageStore(tmp_path / "pictures"))
    assert not any(getattr(one, "elem_id", None) == "video" for one in blocks.blocks.values())
