"""The recipe of worlds: published settings for the published size, others for small models."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sanakit.errors import SettingsError
from sanakit.recipes import RECIPES, world
from sanakit.train.run import run_recipe


@pytest.mark.parametrize(("width", "shift"), [(2240, 9.95), (192, None)])
def test_settings_are_those_of_the_models_size(
    width: int, shift: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: dict[str, Any] = {}
    monkeypatch.setattr(world, "load_world_configs", lambda source: (SimpleNamespace(width=width), None))
    monkeypatch.setattr(world, "world_run", lambda *given, **more: called.update(more, config=given[3]))
    world.world(tmp_path, tmp_path / "run", 40, source="a", batch_size=3)
    config = called["config"]
    assert called["flow_shift"] == shift
    assert (config.steps, config.batch_size, config.warmup_steps) == (40, 3, 4)
    assert (config.learning_rate, config.clip_norm) == ((1e-5, 0.5) if shift else (2e-4, 1.0))
    assert config.rate(39) == 1.0 or not shift  # the published rate stays the same


def test_settings_of_other_recipes_are_refused(tmp_path: Path) -> None:
    for name in ("rank", "autoencoder", "smoke"):
        more = {name: True if name == "smoke" else 1}
        with pytest.raises(SettingsError, match=name):
            list(run_recipe("world", RECIPES, data=tmp_path, output=tmp_path / "run", more=more))
