"""The embedded model as the loader node gives it, once a session, and what its nodes give."""

from __future__ import annotations

import pytest
from torch import Tensor

from sanakit.comfy.loader import LoadModel
from sanakit.pipelines.text_to_image import TextToImage
from tests.comfy.calling import call


@pytest.fixture(scope="session")
def model() -> TextToImage:
    [loaded] = LoadModel().load("pocket")
    return loaded


@pytest.fixture(scope="session")
def texts(model: TextToImage) -> tuple:
    return call("SanakitTextEncode", model, prompt="a red apple")


@pytest.fixture(scope="session")
def apple(model: TextToImage) -> Tensor:
    """IMAGE of one image, 256 px."""
    [image] = call("SanakitTextToImage", model, prompt="a red apple", seed=3)
    return image
