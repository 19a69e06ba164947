"""The page's endpoints for programs, as `gradio_client` calls them over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from sanakit.images.image import read_metadata

gradio = pytest.importorskip("gradio")

from sanakit.serve.web.endpoints import Endpoints  # noqa: E402
from sanakit.serve.web.history import History  # noqa: E402
from sanakit.serve.web.mount import add_page  # noqa: E402
from sanakit.serve.web.page import Page  # noqa: E402

SMALL = {"width": 64, "height": 64, "steps": 2, "seed": 5}


class Program:
    """What `gradio_client` does: reads the parameters of an endpoint, uploads files, joins the queue."""

    def __init__(self, client: TestClient, parts: Any) -> None:
        self.client, self.parts = client, parts
        self.info = client.get("/gradio_api/info").json()["named_endpoints"]
        dependencies = client.get("/config").json()["dependencies"]
        self.numbers = {f"/{one['api_name']}": one["id"] for one in dependencies}

    def call(self, name: str, **values: Any) -> Any:
        """Return what an endpoint gives; of one that failed, its sentence."""
        data = [
            values.pop(one["parameter_name"]) if one["parameter_name"] in values else one["parameter_default"]
            for one in self.info[name]["parameters"]
        ]
        assert not values
        event = {"session_hash": "program", "fn_index": self.numbers[name], "data": data}
        self.client.post("/gradio_api/queue/join", json=event).raise_for_status()
        stream = self.client.get("/gradio_api/queue/data", params={"session_hash": "program"}).text
        lines = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
        end = next(line for line in lines if line["msg"] == "process_completed")
        return end["output"]["data"] if end["success"] else end["output"]["error"]

    def upload(self, image: Image.Image) -> dict[str, Any]:
        file = io.BytesIO()
        image.save(file, "PNG")
        [path] = self.client.post("/gradio_api/upload", files={"files": ("a.png", file.getvalue())}).json()
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def file(self, found: dict[str, Any], tmp_path: Path) -> Path:
        """Return a file of an answer, fetched."""
        path = tmp_path / "fetched.png"
        path.write_bytes(self.client.get(f"/gradio_api/file={found['path']}").raise_for_status().content)
        return path


@pytest.fixture
def program(
    make_parts: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Program]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "page").mkdir()
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    with TestClient(parts.app, base_url="http://127.0.0.1") as client:
        yield Program(client, parts)


def test_every_parameter_has_its_name_and_all_but_the_words_and_the_image_may_be_left_out(
    program: Program,
) -> None:
    shared = {"negative_prompt": "", "model": "pocket", "steps": None, "guidance": None, "seed": None}
    shared |= {"num_images": 1, "prompt_weights": False}
    shared |= {"control": None, "control_net": "", "control_kind": "", "control_scale": None}
    shared |= {"control_start": None, "control_end": None, "upscale": None}
    expected = {
        "/generate": {"width": None, "height": None, **shared},
        "/edit": {"mask": None, "strength": None, **shared},
    }
    for name, defaults in expected.items():
        found = program.info[name]["parameters"]
        assert {
            one["parameter_name"]: one["parameter_default"] for one in found if one["parameter_has_default"]
        } == defaults
    assert program.info["/generate"]["parameters"][0]["parameter_name"] == "prompt"
    assert [one["parameter_name"] for one in program.info["/edit"]["parameters"]][:2] == ["image", "prompt"]
    assert [one["label"] for one in program.info["/edit"]["returns"]] == ["Files", "Settings"]
    assert all(program.info[name]["description"] for name in expected)


def test_an_image_is_the_one_that_the_api_draws_and_its_file_carries_the_settings(
    program: Program, tmp_path: Path
) -> None:
    files, told = program.call("/generate", prompt="a red apple", num_images=2, **SMALL)
    assert [one["seed"] for one in told["images"]] == [5, 6]
    assert [one["size"] > 0 for one in files] == [True, True]
    path = program.file(files[0], tmp_path)
    assert read_metadata(path) == told["images"][0]
    asked = {"size": "64x64", "steps": 2, "seed": 5, "response_format": "url"}
    url = program.parts.draw(**asked).json()["data"][0]["url"]
    assert path.read_bytes() == program.client.get(url).content


def test_images_come_enlarged_and_a_wrong_factor_is_refused_before_drawing(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"prompt": "a red apple", "num_images": 2, **SMALL}
    small, about = program.call("/generate", **asked)
    plain = Image.open(program.file(small[1], tmp_path)).resize((128, 128), Image.Resampling.LANCZOS)
    files, told = program.call("/generate", **asked, upscale=2)
    assert [(one["seed"], one["upscale"]) for one in told["images"]] == [(5, 2.0), (6, 2.0)]
    assert Image.open(program.file(files[1], tmp_path)).tobytes() == plain.tobytes()
    *before, note = told["warnings"]
    assert (before, note.split(",")[0]) == (about["warnings"], "Lanczos enlarged it alone")
    upload = program.upload(Image.new("RGB", (64, 64), "red"))
    [edit], _ = program.call("/edit", image=upload, prompt="a green apple", steps=2, upscale=1.5)
    assert Image.open(program.file(edit, tmp_path)).size == (96, 96)
    monkeypatch.setattr(program.parts.engine, "submit", lambda *_, **__: pytest.fail("drawn"))
    assert "above 1 and up to 8" in program.call("/generate", **asked, upscale=1)
    wide = {**asked, "width": 4096, "height": 4096}
    assert "use a smaller factor" in program.call("/generate", **wide, upscale=8)


def test_what_is_left_out_is_the_models_own(program: Program) -> None:
    [_], told = program.call("/generate", prompt="a red apple")
    own = program.parts.engine.specs["pocket"].settings
    [image] = told["images"]
    assert (image["width"], image["steps"], image["guidance"]) == (own.width, own.steps, own.guidance)


def test_an_edit_keeps_what_its_mask_keeps(program: Program, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    mask = Image.new("L", noise.size)
    mask.paste(255, (0, 0, 48, 64))
    image = program.upload(noise)
    for marked, strength in ((None, 0.6), (program.upload(mask), 1.0)):
        files, told = program.call("/edit", image=image, prompt="a pear", mask=marked, steps=3)
        assert told["images"][0]["strength"] == strength
        drawn = np.asarray(Image.open(program.file(files[0], tmp_path)))
        kept = np.array_equal(drawn[:, 48:], np.asarray(noise)[:, 48:])
        assert (drawn.shape, kept) == ((64, 96, 3), marked is not None)


def test_what_is_wrong_is_a_sentence(program: Program) -> None:
    image, mask = (program.upload(Image.new("RGB", (side, side), "white")) for side in (64, 96))
    elsewhere = {"path": "http://192.0.2.1/a.png", "meta": {"_type": "gradio.FileData"}}
    for name, given, sentence in (
        ("/generate", {"prompt": " "}, "Write what to draw, such as “a red apple”."),
        ("/generate", {"prompt": "x", "width": 50}, "Width: use a whole number from 64 to 4096."),
        ("/generate", {"prompt": "x", "steps": 2.5}, "Steps: use a whole number from 1 to 1000."),
        (
            "/generate",
            {"prompt": "x", "num_images": None},
            "The number of images is empty: use a whole number.",
        ),
        ("/edit", {"image": None, "prompt": "x"}, "The image is missing: an edit needs one to start from."),
        (
            "/edit",
            {"image": image, "prompt": "x", "mask": mask},
            "The mask is 96x96, the image 64x64: make them equal.",
        ),
        (
            "/edit",
            {"image": elsewhere, "prompt": "x"},
            "Files of other hosts are not fetched: upload the file.",
        ),
    ):
        assert program.call(name, **given) == sentence


def test_images_count_for_the_login_and_are_not_charged_where_none_was_drawn(
    make_parts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, ledger = make_parts(), []

    def charge(name: str, pictures: int) -> Callable[[], None]:
        ledger.append((name, pictures))
        return lambda: ledger.append((name, -pictures))

    page = Page(parts.engine, History(parts.store), charge=charge)
    ann: Any = SimpleNamespace(session_hash="program", username="ann")
    words = {"model": "pocket", "steps": 1, "num_images": 2}
    asyncio.run(Endpoints(page).generate(ann, "a red apple", **words))
    assert ledger == [("ann", 2)]
    assert len(page.history.names("user ann")) == 2
    monkeypatch.setattr(parts.engine, "submit", lambda *_, **__: 1 / 0)
    with pytest.raises(Exception, match="went wrong on the server"):
        asyncio.run(Endpoints(page).generate(ann, "a red apple", **words))
    assert ledger[1:] == [("ann", 2), ("ann", -2)]
