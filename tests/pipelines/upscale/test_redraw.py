"""Upscaling: which models redraw, what they are asked for, and what is told where they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import SettingsError, SizeError
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pipelines.upscale.lanczos import LANCZOS, with_detail
from sanakit.pipelines.upscale.redraw import STRENGTH, Upscale, redraws

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
PROMPT = "a red apple"


@pytest.fixture(scope="module")
def pipe(folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(folder, device="cpu", encoder=True)


def trained_at(pipe: TextToImage, side: int, *sizes: tuple[int, int]):
    """The facts of a model of another side in pixels, which may list the sizes that it learned."""
    return replace(pipe.spec, sample_size=side // 32, settings=replace(pipe.settings, sizes=sizes))


def test_models_of_2k_and_4k_redraw_at_sizes_that_they_learned(pipe: TextToImage) -> None:
    for side, size, expected in (
        *((2048, (2048, 2048), True), (2048, (2560, 1600), True), (2048, (4096, 4096), False)),
        *((4096, (4096, 4096), True), (1024, (1024, 1024), False), (1024, (2048, 2048), False)),
        *((256, (256, 256), False), (4096, (8192, 8192), False)),
    ):
        assert redraws(trained_at(pipe, side), size) is expected, (side, size)
    assert not redraws(trained_at(pipe, 2048, (1024, 1024)), (2048, 2048))
    assert redraws(trained_at(pipe, 2048, (2048, 1024)), (2048, 1024))


def test_any_other_model_leaves_it_to_lanczos_and_says_so(pipe: TextToImage) -> None:
    with pytest.warns(UserWarning, match="did not learn to draw 128x96"):
        result = Upscale(pipe)(IMAGE, PROMPT, seed=1)
    (image,) = result.images
    assert np.array_equal(np.asarray(image), np.asarray(IMAGE.resize((128, 96), LANCZOS)))
    assert len(result.warnings) == 1
    assert "--upscale-model sana-1.6b-2k" in result.warnings[0]
    expected = {
        "upscale": 2.0,
        "upscale_strength": 0.0,
        "width": 64,
        "height": 48,
        "prompt": PROMPT,
        "seed": 1,
    }
    assert expected.items() <= result.metadata[0].items()
    assert "strength" not in result.metadata[0]


def test_a_strength_of_0_is_lanczos_by_wish_and_tells_nothing(pipe: TextToImage) -> None:
    result = Upscale(pipe)(IMAGE, strength=0, factor=1.5)
    assert result.images[0].size == (96, 72)
    assert result.warnings == []


def test_redrawing_is_image_to_image_at_the_larger_size_of_which_detail_is_taken(pipe: TextToImage) -> None:
    steps = list(Upscale(pipe).stream(IMAGE, PROMPT, strength=0.7, seed=3, factor=2))
    drawn = ImageToImage(pipe)(
        IMAGE.resize((128, 96), LANCZOS), PROMPT, strength=0.7, seed=3, width=128, height=96, binned=False
    )
    result = steps[-1].result
    assert result is not None
    assert [step.index for step in steps] == [1, 2, 3]
    assert [step.result is None for step in steps] == [True, True, False]
    expected = with_detail(IMAGE, drawn.images[0])
    difference = np.asarray(result.images[0]).astype(int) - np.asarray(expected)
    assert np.abs(difference).max() <= 1
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(IMAGE.resize((128, 96), LANCZOS))).max() > 3
    assert {"upscale": 2.0, "upscale_strength": 0.7}.items() <= result.metadata[0].items()


def test_a_size_between_latents_is_drawn_at_the_nearest_and_brought_to_it(pipe: TextToImage) -> None:
    (image,) = Upscale(pipe)(IMAGE, strength=0.5, factor=1.6, steps=2).images
    assert image.size == (102, 77)


def test_a_model_of_its_size_redraws_without_being_asked(pipe: TextToImage, monkeypatch) -> None:
    monkeypatch.setattr("sanakit.pipelines.upscale.redraw.DETAILED", 128)  # the tiny model's side
    result = Upscale(pipe)(Image.new("RGB", (64, 64), "teal"), PROMPT, seed=1)
    assert result.metadata[0]["upscale_strength"] == STRENGTH
    assert result.warnings == []


def test_what_is_not_a_setting_of_one_image_is_refused(pipe: TextToImage) -> None:
    task = Upscale(pipe)
    for settings in ({"num_images": 2}, {"output": "pt"}, {"binned": False}):
        with pytest.raises(SettingsError, match=f"{next(iter(settings))} is not a setting of upscaling"):
            task(IMAGE, **settings)
    with pytest.raises(TypeError, match="use steps=20"):
        task(IMAGE, num_inference_steps=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(SettingsError, match="strength = 2"):
        task(IMAGE, strength=2.0)
    with pytest.raises(SizeError, match="4096 px"):
        task(Image.new("RGB", (2000, 64)), strength=0.5, factor=8)


def test_without_the_encoder_nothing_is_redrawn(folder: Path) -> None:
    task = Upscale(TextToImage.from_pretrained(folder, device="cpu"))
    assert task(IMAGE, strength=0).images[0].size == (128, 96)
    with pytest.raises(SettingsError, match="encoder=True"):
        task(IMAGE, strength=0.5)
