"""The stages of causal training: which models can be a teacher, and which a student."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.errors import SettingsError
from sanakit.train.runs.causal.clips import causal_transformer
from tests.pipelines.video.tiny import DEFAULTS, TRANSFORMER, save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny-video")


def causal(folder: Path, times: tuple[float, ...] | None) -> Path:
    chunks = {"length": 2, "times": times}
    return save_tiny(folder, replace(TRANSFORMER, causal=True), defaults={**DEFAULTS, "chunks": chunks})


def test_a_student_is_causal_and_has_its_teachers_sizes(folder: Path, tmp_path: Path) -> None:
    student = causal_transformer(folder, like=TRANSFORMER, distilled=False)
    assert student.config == replace(TRANSFORMER, causal=True)
    with pytest.raises(SettingsError, match="other sizes than its teacher"):
        causal_transformer(folder, like=replace(TRANSFORMER, depth=3))


def test_a_distilled_model_is_not_made_one_of_many_steps(tmp_path: Path) -> None:
    distilled = causal(tmp_path / "distilled", (1.0, 0.5))
    with pytest.raises(SettingsError, match="distilled to few steps"):
        causal_transformer(distilled, distilled=False)
    assert causal_transformer(distilled).config.causal
    assert causal_transformer(causal(tmp_path / "slow", None), distilled=False).config.causal
    told = json.loads((tmp_path / "slow" / "sanakit.json").read_text())
    assert told["defaults"]["chunks"]["times"] is None
