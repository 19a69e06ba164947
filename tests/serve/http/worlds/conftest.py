"""The application with a world model beside the embedded one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sanakit.serve.engine.world_engine import WorldEngine


@pytest.fixture
def parts(make_parts: Callable[..., Any], world_engine: WorldEngine) -> Any:
    return make_parts(worlds=world_engine)
