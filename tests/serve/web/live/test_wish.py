"""What a key asks for: few steps by the model's kind, a sketch to start from, and nothing that is unknown."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from sanakit.errors import ModelNotFoundError, SettingsError
from sanakit.serve.engine.engine import Engine
from sanakit.serve.http.failures import FailureError
from sanakit.serve.web.live.wish import checked, read_wish

FIRST = {"tab": "one-two-three", "number": 0, "prompt": "a red apple"}


def sketch(side: int = 64) -> str:
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 40, 40), fill=(220, 40, 40))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def wish(**fields: Any) -> Any:
    return read_wish(json.dumps(FIRST | fields).encode())


def refused(body: bytes) -> str:
    with pytest.raises(FailureError) as error:
        read_wish(body)
    assert error.value.failure.status == 400
    return error.value.failure.message


def test_a_model_of_few_steps_draws_in_one_and_redraws_a_sketch_in_the_second_of_two(
    few_step_engine: Engine,
) -> None:
    drawn = checked(few_step_engine, wish())
    assert (drawn.steps, drawn.solver.start(*begun()).total) == (1, 1)
    redrawn = checked(few_step_engine, wish(sketch=sketch()))
    assert (redrawn.steps, redrawn.solver.start(*begun()).total) == (2, 1)
    free = checked(few_step_engine, wish(sketch=sketch(), strength=0.66))
    assert (free.steps, free.solver.start(*begun()).total) == (3, 2)
    assert few_step_engine.submit(drawn).result(60).images[0].size == (64, 64)
    assert few_step_engine.submit(redrawn).result(60).images[0].size == (64, 64)


def begun() -> tuple[torch.Tensor, torch.Generator]:
    return torch.zeros(1, 8, 2, 2), torch.Generator()


def test_another_model_draws_in_three_steps_and_three_of_a_sketch(engine: Engine) -> None:
    drawn = checked(engine, wish())
    assert (drawn.steps, drawn.guidance, drawn.size) == (3, 2.5, (256, 256))
    redrawn = checked(engine, wish(sketch=sketch()))
    assert redrawn.conditions.image is not None
    assert (redrawn.steps, redrawn.metadata[0]["strength"], redrawn.size) == (4, 0.7, (256, 256))
    assert checked(engine, wish(steps=7, width=64, height=64, guidance=1.0)).steps == 7


def test_what_is_not_known_or_out_of_range_is_refused_by_name() -> None:
    assert "did you mean 'prompt'" in refused(json.dumps(FIRST | {"promt": "x"}).encode())
    for name, value in {"tab": "x", "number": -1, "steps": 101, "strength": 2, "seed": 1.5}.items():
        assert refused(json.dumps(FIRST | {name: value}).encode()).startswith(f"{name}:"), name
    for name in FIRST:
        left = {other: value for other, value in FIRST.items() if other != name}
        assert name in refused(json.dumps(left).encode())
    assert "not valid JSON" in refused(b"{")
    assert "object" in refused(b"[]")
    assert "NUL" in refused(json.dumps(FIRST | {"prompt": "a\0b"}).encode())


def test_a_sketch_that_is_no_image_is_told_and_strength_needs_one(engine: Engine) -> None:
    with pytest.raises(SettingsError, match="The sketch is not base64"):
        checked(engine, wish(sketch="???"))
    with pytest.raises(SettingsError, match="The sketch is damaged"):
        checked(engine, wish(sketch=base64.b64encode(b"words").decode()))
    with pytest.raises(SettingsError, match="needs an image"):
        checked(engine, wish(strength=0.5))
    with pytest.raises(ModelNotFoundError):
        checked(engine, wish(model="another"))


def test_a_sketch_sets_the_place_of_things(engine: Engine) -> None:
    """The image is darker than white where the strokes are, more than without them."""

    def left(fields: dict[str, Any]) -> float:
        drawn = checked(engine, wish(prompt="a red apple", width=128, height=128, seed=3, **fields))
        image = engine.submit(drawn).result(60).images[0].convert("L").resize((2, 1), Image.Resampling.BOX)
        return image.getpixel((1, 0)) - image.getpixel((0, 0))

    assert left({"sketch": sketch(), "strength": 0.3}) > left({}) + 20
