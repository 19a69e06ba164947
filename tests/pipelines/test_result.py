"""Steps of a drawing: only the last one has a result; previews show the clean latents in sight."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

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
