"""Distil pocket into a model that draws in one to four steps (SANA-Sprint), on the data set's own samples."""

from __future__ import annotations

import os
from pathlib import Path

from sanakit.pocket.recipes.pocket import SCENES
from sanakit.pocket.train.sprint import pocket_sprint_run
from sanakit.recipes.sprint import settings_for
from sanakit.train.run import Run


def sprint(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: str | os.PathLike[str] = "pocket",
    smoke: bool = False,
) -> Run:
    """A student of `source`, pocket or a folder that its recipe wrote."""
    config, aim = settings_for(source, steps, smoke=smoke)
    return pocket_sprint_run(data, output, source, config, aim, scenes=32 if smoke else SCENES)
