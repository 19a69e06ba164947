"""The embedded model as the loader node gives it, once a session."""

from __future__ import annotations

import pytest

from sanakit.comfy.loader import LoadModel
from sanakit.pipelines.text_to_image import TextToImage


@pytest.fixture(scope="session")
def model() -> TextToImage:
    [loaded] = LoadModel().load("pocket")
    return loaded
