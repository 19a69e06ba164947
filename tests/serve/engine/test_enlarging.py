"""Enlarging on a server: by the image's own settings, and told where Lanczos is alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.pipelines.result import Result
from sanakit.pipelines.upscale import redraw
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.enlarging import Enlargements, enlargement_of

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


def test_each_image_is_in_its_place_and_a_note_is_told_once(engine: Engine) -> None:
    made = [MADE | {"prompt": prompt} for prompt in ("red", "blue")]
    images: list[Any] = [Image.new("RGB", (64, 64), one["prompt"]) for one in made]
    drawn = Result(images=images, seeds=[7, 7], timings={"denoise": 1.0}, metadata=made, warnings=["first"])
    enlarging = Enlargements(engine, drawn, 2)
    assert enlarging.request() is None
    whole = enlarging.result()
    assert [one["prompt"] for one in whole.metadata] == ["red", "blue"]
    for image, small in zip(whole.images, images, strict=True):
        assert isinstance(image, Image.Image)
        assert image.size == (128, 128)
        assert image.getpixel((64, 64)) == small.getpixel((32, 32))
    assert [note.split(",")[0] for note in whole.warnings] == ["first", "Lanczos enlarged it alone"]
    assert (whole.timings, whole.seeds) == (drawn.timings, [7, 7])


def test_a_request_is_the_same_one_until_it_is_taken(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redraw, "redraws", lambda spec, size: True)
    made = [MADE | {"prompt": prompt} for prompt in ("red", "blue")]
    drawn = Result(images=[IMAGE, IMAGE], seeds=[7, 7], timings={}, metadata=made, warnings=[])
    enlarging = Enlargements(engine, drawn, 2.0)
    first = enlarging.request()
    assert first is not None
    assert enlarging.request() is first  # an engine that was busy is asked again
    grey: list[Any] = [Image.new("RGB", (128, 128), "grey")]
    enlarging.take(replace(drawn, images=grey, metadata=first.metadata))
    second = enlarging.request()
    assert second is not None
    assert (first.prompts, second.prompts) == (["red"], ["blue"])
    enlarging.take(replace(drawn, images=grey, metadata=second.metadata))
    assert enlarging.request() is None
    assert [one["upscale_strength"] for one in enlarging.result().metadata] == [0.3, 0.3]


@pytest.mark.parametrize("factor", [1, 9, "big", None, True, float("nan")])
def test_a_factor_that_is_none_is_refused(engine: Engine, factor: Any) -> None:
    drawn = Result(images=[IMAGE], seeds=[7], timings={}, metadata=[MADE], warnings=[])
    with pytest.raises(SettingsError, match="above 1 and up to 8"):
        Enlargements(engine, drawn, factor)
