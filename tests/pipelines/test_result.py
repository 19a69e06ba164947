"""Steps of a drawing: only the last one has a result; previews show the clean latents in sight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import OutputError, SettingsError
from sanakit.images.image import read_metadata
from sanakit.pipelines.result import LastStep, Result, Step, result_of


def shown(latents: Tensor) -> Image.Image:
    return Image.new("L", (1, 1), int(latents.sum()))


FACTS = {"total": 2, "latents": torch.zeros(2, 1, 1, 1), "clean": torch.tensor([3.0, 5.0]).view(2, 1, 1, 1)}


def test_a_step_has_no_result_and_previews_the_clean_latents() -> None:
    step = Step(index=1, draw=shown, **FACTS)
    assert step.result is None
    assert [step.preview(i).getpixel((0, 0)) for i in (0, 1)] == [3, 5]
    with pytest.raises(AssertionError, match="ends with its last step"):
        result_of(step)


def test_the_last_step_carries_the_images() -> None:
    result = Result(images=[], seeds=[], timings={}, metadata=[], warnings=[])
    last = LastStep(index=2, draw=shown, drawn=result, **FACTS)
    assert last.result is result
    assert result_of(last) is result


def result(images: list[Image.Image] | Tensor) -> Result:
    size = {"width": 8, "height": 4}
    rows = [
        {"prompt": "a fox", "steps": 1, "model": "tiny", "seed": seed, **size} for seed in range(len(images))
    ]
    return Result(images=images, seeds=[0], timings={}, metadata=rows, warnings=[])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_saving_keeps_the_settings(tmp_path: Path, suffix: str) -> None:
    drawn = result([Image.new("RGB", (8, 4), "red"), Image.new("RGB", (8, 4), "blue")])
    paths = drawn.save(tmp_path / f"fox.{suffix}")
    assert [path.name for path in paths] == [f"fox-1.{suffix}", f"fox-2.{suffix}"]
    assert [read_metadata(path) for path in paths] == drawn.metadata


def test_tensors_are_saved_as_the_images_they_are_and_latents_refused(tmp_path: Path) -> None:
    (path,) = result(torch.full((1, 3, 4, 8), -1.0)).save(tmp_path / "black.png")
    with Image.open(path) as opened:
        assert opened.convert("RGB").getextrema() == ((0, 0),) * 3
    latents = result(torch.zeros(1, 8, 4, 8))
    with pytest.raises(SettingsError, match="holds latents"):
        latents.save(tmp_path / "a.png")
    with pytest.raises(OutputError, match="end the name"):
        result([Image.new("RGB", (8, 4))]).save(tmp_path / "a.gif")
    assert (latents._repr_html_(), latents._repr_png_()) == (None, None)


def test_a_notebook_shows_the_images() -> None:
    drawn = result([Image.new("RGB", (8, 4), "red")])
    assert str(drawn._repr_html_()).count("<img") == 1
    assert drawn._repr_png_()[:4] == b"\x89PNG"  # pyright: ignore[reportOptionalSubscript]
    assert result([])._repr_png_() is None
