"""The application with a video model beside the embedded one."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from sanakit.serve.engine.clip_engine import ClipEngine


@pytest.fixture
def parts(make_parts: Callable[..., Any], clip_engine: ClipEngine) -> Any:
    return make_parts(clips=clip_engine)


@pytest.fixture
def photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (96, 64), "teal").save(file, "PNG")
    return file.getvalue()
