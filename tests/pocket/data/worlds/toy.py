"""A data set of camera paths in small: few rooms with made furniture, few frames, few pixels."""

from __future__ import annotations

from pathlib import Path

from sanakit.pocket.data.worlds.dataset import write_worlds

SCENES, SIDE, LENGTH = 8, 16, 9


def build_toy_worlds(folder: Path, seed: int = 0) -> Path:
    """Render it into a new folder."""
    asked = {"side": SIDE, "scenes": SCENES, "length": LENGTH, "seed": seed, "made": True}
    write_worlds(folder, asked, [], lambda what, done, total: None)
    return folder
