"""`upscale` over /v1/images: checked before drawing, told when Lanczos is alone, redrawn where learned."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from sanakit.pipelines.upscale import redraw


def image(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_images_come_enlarged_with_their_settings_and_a_note(parts: Any, output_format: str) -> None:
    plain = parts.draw(n=2, seed=7).json()
    answer = parts.draw(n=2, seed=7, upscale=2, output_format=output_format).json()
    assert (answer["size"], len(answer["data"])) == ("128x128", 2)
    for one, small in zip(answer["data"], plain["data"], strict=True):
        assert one["metadata"] == small["metadata"] | {"upscale": 2.0, "upscale_strength": 0.0}
        larger = image(small["b64_json"]).resize((128, 128), Image.Resampling.LANCZOS)
        assert image(one["b64_json"]).size == (128, 128)
        if output_format == "png":
            assert image(one["b64_json"]).tobytes() == larger.tobytes()
    (note,) = (note for note in answer["warnings"] if "Lanczos" in note)
    assert note.startswith("Lanczos enlarged it alone, as pocket did not learn to draw 128x128: ")


def test_a_stream_ends_with_the_enlarged_image(parts: Any) -> None:
    events = parts.events(parts.draw(stream=True, partial_images=1, upscale=1.5))
    (name, last) = events[-1]
    assert name == "image_generation.completed"
    assert (last["size"], image(last["b64_json"]).size) == ("96x96", (96, 96))
    assert last["metadata"]["upscale"] == 1.5


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_learned_the_larger_size_redraws_it(
    parts: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(redraw, "redraws", lambda spec, size: True)
    before = parts.engine.stats()["pictures"]
    answer = parts.draw(upscale=2, seed=7, stream=stream)
    one = parts.events(answer)[-1][1] if stream else answer.json()["data"][0]
    assert image(one["b64_json"]).size == (128, 128)
    assert one["metadata"]["upscale_strength"] == redraw.STRENGTH
    assert parts.engine.stats()["pictures"] == before + 2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"upscale": 1}, "upscale"),
        ({"upscale": 8.5}, "upscale"),
        ({"upscale": "2"}, "upscale"),
        ({"upscale": True}, "upscale"),
        ({"upscale": 8, "size": "1024x1024"}, "larger than this server allows"),
    ],
)
def test_what_cannot_be_enlarged_is_refused_before_anything_is_drawn(
    parts: Any, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(parts.engine, "submit", lambda *_, **__: pytest.fail("drawn"))
    answer = parts.draw(**body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


def test_an_edit_is_enlarged_and_a_job_says_that_it_is_not(parts: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    form = {"prompt": "a green apple", "steps": "2", "strength": "0.5", "upscale": "2"}
    edit = parts.client.post("/v1/images/edits", data=form, files={"image": ("a.png", file.getvalue())})
    assert image(edit.json()["data"][0]["b64_json"]).size == (128, 128)
    refused = parts.client.post("/v1/jobs", json={"prompt": "a red apple", "upscale": 2})
    assert refused.status_code == 400
    assert "A job does not enlarge its images" in refused.json()["error"]["message"]
