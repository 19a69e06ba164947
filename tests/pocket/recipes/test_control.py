"""`sana train pocket-control --smoke`: two small steps on made-up shapes, and what they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit import ControlImage, TextToImage
from sanakit.pocket.data import toy
from sanakit.pocket.recipes import RECIPES
from sanakit.train.run import run_recipe
from sanakit.weights.control import hint_of

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "THINGS", 12)
        return toy.build_toy(tmp_path_factory.mktemp("data") / "pocket")


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "control"
    progress = list(run_recipe("pocket-control", RECIPES, data=data, output=output, smoke=True))
    assert progress[-1].step == 2
    assert "no further designs" in " ".join(progress[0].notes)
    return output


def test_its_result_steers_pocket_by_lines(trained: Path):
    model = trained / "model"
    assert hint_of(model) == "lines"
    pipe = TextToImage.from_pretrained("pocket", control_model=model)
    hint = Image.fromarray(np.zeros((256, 256, 3), dtype=np.uint8))
    steered = pipe("a dog", seed=0, steps=2, output="pt", control=ControlImage(hint)).images
    alone = pipe("a dog", seed=0, steps=2, output="pt", control=ControlImage(hint, scale=0.0)).images
    assert torch.isfinite(steered).all()
    assert not torch.equal(steered, alone)  # two steps have moved the projections away from zero
