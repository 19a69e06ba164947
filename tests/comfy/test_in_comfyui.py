"""The example workflows in a real ComfyUI, over its HTTP interface.

SANAKIT_COMFYUI names a checkout of ComfyUI, SANAKIT_COMFYUI_PYTHON the interpreter that runs it (else ours).
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sanakit import TextToImage

CHECKOUT = os.environ.get("SANAKIT_COMFYUI", "")
WAIT = 120  # seconds for anything

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="SANAKIT_COMFYUI names no checkout of ComfyUI"),
]


class ComfyUI:
    """A running server, with our pack as its only custom nodes."""

    def __init__(self, folder: Path, pack: Path) -> None:
        for name in ("custom_nodes", "input", "output", "models"):
            (folder / name).mkdir(parents=True)
        (folder / "custom_nodes" / "sanakit").symlink_to(pack)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        options = ["--cpu", "--disable-api-nodes", "--preview-method", "latent2rgb", "--listen", "127.0.0.1"]
        options += ["--port", self.address.rsplit(":", 1)[1], "--base-directory", str(folder)]
        options += ["--database-url", "sqlite:///:memory:"]
        python = os.environ.get("SANAKIT_COMFYUI_PYTHON", sys.executable)
        self.log = folder / "log.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "main.py", *options], cwd=CHECKOUT, stdout=log, stderr=subprocess.STDOUT
            )

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=WAIT) as answer:
            return answer.read()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.loads(answer.read() or b"null")

    def wait(self, what: Any) -> Any:
        """Ask until there is an answer: the server sends no event over plain HTTP."""
        until = time.monotonic() + WAIT
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(OSError):
                if answer := what():
                    return answer
            time.sleep(0.05)
        pytest.fail(self.log.read_text(encoding="utf-8", errors="replace")[-3000:])

    def run(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Queue a workflow and return its entry in the history."""
        job = self.post("/prompt", {"prompt": workflow})["prompt_id"]
        return self.wait(lambda: json.loads(self.get(f"/history/{job}")).get(job))

    def picture(self, entry: dict[str, Any]) -> Image.Image:
        """Return the one image that a finished workflow saved."""
        assert entry["status"]["status_str"] == "success", entry["status"]
        [saved] = [image for output in entry["outputs"].values() for image in output["images"]]
        return Image.open(io.BytesIO(self.get(f"/view?{urllib.parse.urlencode(saved)}"))).convert("RGB")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[ComfyUI]:
    folder = tmp_path_factory.mktemp("comfyui") / "base"
    comfy = ComfyUI(folder, repository / "deploy" / "comfyui" / "sanakit")
    try:
        comfy.wait(lambda: comfy.get("/system_stats"))
        yield comfy
    finally:
        comfy.process.terminate()
        comfy.process.wait(WAIT)


@pytest.fixture(scope="module")
def apple() -> Image.Image:
    return TextToImage.from_pretrained("pocket")("a red apple", seed=7).images[0]


def workflow(repository: Path, name: str) -> dict[str, Any]:
    return json.loads((repository / "examples" / "comfyui" / f"{name}-api.json").read_text(encoding="utf-8"))


def difference(one: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))


def put(server: ComfyUI, image: Image.Image, **corners: tuple[int, int, int, int]) -> None:
    """Save the image that the workflows open; `hole` is transparent, which ComfyUI reads as the mask."""
    image = image.convert("RGBA")
    for box in corners.values():
        hole = image.crop(box)
        hole.putalpha(0)
        image.paste(hole, box)
    image.save(server.log.parent / "input" / "example.png")


def test_text_to_image_gives_the_picture_of_the_library(
    server: ComfyUI, repository: Path, apple: Image.Image
) -> None:
    drawn = server.picture(server.run(workflow(repository, "text-to-image")))
    assert difference(drawn, apple).max() <= 2  # ComfyUI cuts levels down where we round


def test_image_to_image_keeps_the_shape_and_changes_the_colour(
    server: ComfyUI, repository: Path, apple: Image.Image
) -> None:
    put(server, apple)
    drawn = server.picture(server.run(workflow(repository, "image-to-image")))
    assert drawn.size == apple.size
    assert difference(drawn, apple).mean() > 5


def test_inpainting_leaves_every_pixel_outside_the_mask(
    server: ComfyUI, repository: Path, apple: Image.Image
) -> None:
    box = (64, 64, 192, 192)
    put(server, apple, hole=box)
    drawn = server.picture(server.run(workflow(repository, "inpaint")))
    changed = difference(drawn, apple).max(axis=2)
    inside = np.zeros_like(changed, dtype=bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    assert changed[~inside].max() == 0
    assert changed[inside].mean() > 5


def test_nodes_of_comfyui_work_on_what_ours_give(server: ComfyUI, repository: Path) -> None:
    """Prompts joined, a latent enlarged and drawn on, the image's canvas enlarged and painted."""
    mixed = workflow(repository, "text-to-image")
    mixed["5"]["inputs"]["images"] = ["14", 0]
    more = {"model": ["1", 0], "prompt": "a tree", "negative_prompt": ""}
    joined = {"conditioning_to": ["2", 0], "conditioning_from": ["10", 0]}
    larger = {"samples": ["3", 0], "upscale_method": "bislerp", "scale_by": 1.5}
    again = mixed["3"]["inputs"] | {"positive": ["11", 0], "latent": ["12", 0], "strength": 0.5}
    canvas = {"image": ["4", 0], "left": 0, "top": 0, "right": 96, "bottom": 0, "feathering": 0}
    paint = workflow(repository, "inpaint")["3"]["inputs"] | {
        "image": ["13", 0],
        "mask": ["13", 1],
        "feather": 0,
    }
    mixed |= {
        "10": {"class_type": "SanakitTextEncode", "inputs": more},
        "11": {"class_type": "ConditioningConcat", "inputs": joined},
        "12": {"class_type": "LatentUpscaleBy", "inputs": larger},
        "15": {"class_type": "SanakitSampler", "inputs": again},
        "13": {"class_type": "ImagePadForOutpaint", "inputs": canvas},
        "14": {"class_type": "SanakitInpaint", "inputs": paint},
    }
    mixed["4"]["inputs"]["latent"] = ["15", 0]
    assert server.picture(server.run(mixed)).size == (384 + 96, 384)


def test_interrupting_stops_within_a_step(server: ComfyUI, repository: Path) -> None:
    endless = workflow(repository, "text-to-image")
    endless["3"]["inputs"] |= {"steps": 1000, "width": 512, "height": 512, "seed": 8}
    job = server.post("/prompt", {"prompt": endless})["prompt_id"]
    server.wait(lambda: json.loads(server.get("/queue"))["queue_running"])
    server.post("/interrupt", {})
    entry = server.wait(lambda: json.loads(server.get(f"/history/{job}")).get(job))
    assert "execution_interrupted" in [name for name, _ in entry["status"]["messages"]]


def test_a_mistake_reaches_the_user_as_our_sentence(server: ComfyUI, repository: Path) -> None:
    wrong = workflow(repository, "text-to-image")
    wrong["3"]["inputs"]["width"] = 100
    entry = server.run(wrong)
    messages = dict(entry["status"]["messages"])
    assert "multiples of 32" in messages["execution_error"]["exception_message"]
