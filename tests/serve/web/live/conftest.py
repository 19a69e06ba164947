"""A tiny model of few steps, and an engine of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sanakit.serve.engine.engine import Engine
from tests.tiny_image_model import save_tiny


@pytest.fixture(scope="session")
def few_step_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    defaults = {"steps": 2, "guidance": 4.5, "solver": "scm"}
    few_steps = {"qk_norm": True, "time_scale": 1.0, "guidance_embed": True}
    folder = tmp_path_factory.mktemp("few") / "few"
    return save_tiny(folder, defaults=defaults, flow_shift=1.0, dtype="float32", **few_steps)


@pytest.fixture(scope="module")
def few_step_engine(few_step_folder: Path) -> Iterator[Engine]:
    running = Engine([str(few_step_folder)], device="cpu", threads=1)
    running.start()
    yield running
    running.close()
