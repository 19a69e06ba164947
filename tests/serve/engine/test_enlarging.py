"""Enlarging on a server: by the image's own settings, and told where Lanczos is alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.pipelines.result import Result
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.enlarging import enlarged_result, enlargement_of

MADE: dict[str, Any] = {
    "prompt": "a (red:1.5) apple",
    "negative_prompt": "a dog",
    "model": "pocket",
    "seed": 7,
}
MADE |= {"steps": 2, "width": 64, "height": 64, "prompt_weights": True}
IMAGE = Image.new("RGB", (64, 64), "red")


def test_a_model_that_learned_the_size_redraws_it_by_the_images_own_words_and_seed(engine: Engine) -> None:
    pocket = engine.specs["pocket"]
    learned_all = replace(pocket.settings, sizes=())
    large = replace(pocket, sample_size=2048 // pocket.compression, settings=learned_all)
    plan = enlargement_of(large, IMAGE.resize((1024, 1024)), MADE, 2.0)
    request = plan.request
    assert request is not None
    assert (request.prompts, request.seeds) == (["a red apple"], [7])  # its weights are read
    assert request.metadata[0]["negative_prompt"] == "a dog"
    assert plan.result.warnings == []
    told = plan.result.metadata[0]
    assert (told["upscale"], told["upscale_strength"], told["steps"]) == (2.0, 0.3, 2)


def test_lanczos_alone_is_told_and_needs_no_request(engine: Engine) -> None:
    plan = enlargement_of(engine.specs["pocket"], IMAGE, MADE | {"upscale": 2.0}, 1.5)
    assert plan.request is None
    (image,) = plan.result.images
    assert isinstance(image, Image.Image)
    assert image.size == (96, 96)
    assert plan.result.metadata == [MADE | {"upscale": 3.0, "upscale_strength": 0.0}]
    assert plan.result.warnings == [
        "Lanczos enlarged it alone, as pocket did not learn to draw 96x96: a model of 2K or 4K draws detail."
    ]
    (others,) = enlargement_of(engine.specs["pocket"], IMAGE, MADE | {"model": "gone"}, 2).result.metadata
    assert (others["model"], others["upscale_model"]) == ("gone", "pocket")
    with pytest.raises(SettingsError, match="above 1 and up to 8"):
        enlargement_of(engine.specs["pocket"], IMAGE, MADE, 9)


def test_each_image_is_in_its_place_and_a_note_is_told_once() -> None:
    def result(colour: str, note: str) -> Result:
        return Result(
            images=[Image.new("RGB", (8, 8), colour)],
            seeds=[7],
            timings={},
            metadata=[{"prompt": colour}],
            warnings=[note],
        )

    whole = replace(result("red", "first"), images=[IMAGE, IMAGE], metadata=[{}, {}])
    made = enlarged_result(whole, [result("red", "same"), result("blue", "same")])
    assert [one["prompt"] for one in made.metadata] == ["red", "blue"]
    assert made.warnings == ["first", "same"]
