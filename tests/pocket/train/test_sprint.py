"""What pocket's distillation refuses before it reads any data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.errors import SettingsError
from sanakit.pocket.train import sprint
from sanakit.train.config import TrainConfig
from sanakit.train.runs.sprint import SprintAim
from sanakit.weights import load_configs

CONFIG = TrainConfig(steps=2, batch_size=2, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"time_scale": 1000.0}, "pocket takes times 1000 t"), ({"guidance_embed": True}, "is a Sprint model")],
)
def test_a_source_that_cannot_be_distilled_is_refused(tmp_path: Path, monkeypatch, change, message) -> None:
    sizes, codec = load_configs("pocket")
    monkeypatch.setattr(sprint, "load_configs", lambda source: (replace(sizes, **change), codec))
    with pytest.raises(SettingsError, match=message):
        sprint.pocket_sprint_run(tmp_path / "no", tmp_path, "pocket", CONFIG, SprintAim(), scenes=2)
