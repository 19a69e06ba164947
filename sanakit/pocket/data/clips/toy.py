"""A made-up data set in the form of the clips: plain shapes that move, made in a second.

For trying the recipes from end to end where npm is not at hand. Nothing that was trained on it can draw.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from sanakit.pocket.data.clips.dataset import FORMAT, FRAMES, ROWS, SOURCES, ClipRow
from sanakit.pocket.data.clips.measure import measure_motion
from sanakit.pocket.words.motion import clip_captions
from sanakit.pocket.words.scene_words import SCENE_CONCEPTS
from sanakit.whole import written_whole

SIDE = 16  # px
LENGTH = 24  # frames
THINGS = 10
HELD_OUT = ("abacus", "anvil")  # names of things that are not common


def build_toy_clips(folder: Path) -> Path:
    """Write discs and squares that travel round a circle, each in its own way, into a new folder."""
    rows, clips = [], []
    for number, concept in enumerate([*SCENE_CONCEPTS[:THINGS], *HELD_OUT]):
        frames = _loop(number)
        motion = measure_motion(frames[::3])
        rows.append(
            ClipRow(
                name=concept,
                concept=concept,
                hex=f"{number:04x}",
                tone="",
                group="objects",
                subgroup="shapes",
                captions=clip_captions(concept, "", [], motion),
                motion=motion,
                first=LENGTH * number,
                frames=LENGTH,
                licence="Apache-2.0",
                source="made up",
                split="val" if concept in HELD_OUT else "train",
            )
        )
        clips.append(frames)
    folder.parent.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "side": SIDE, "clips": len(rows), "packages": []}
    with written_whole(folder) as partial:
        partial.mkdir()
        np.save(partial / FRAMES, np.concatenate(clips))
        (partial / ROWS).write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
        (partial / SOURCES).write_text(json.dumps(about), encoding="utf-8")
    return folder


def _loop(number: int) -> np.ndarray:
    """Return a shape's frames, T S S 3. The share of a pixel that it covers makes its edges soft."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    angles = 2 * np.pi * np.arange(LENGTH)[:, None, None] / LENGTH
    middle_x = SIDE * (0.5 + 0.06 * (number % 4) * np.cos(angles))
    middle_y = SIDE * (0.5 + 0.06 * (number % 3) * np.sin(angles))
    radius = SIDE * (0.2 + 0.01 * number + 0.05 * (number % 2) * np.sin(angles))
    across, down = np.abs(x - middle_x), np.abs(y - middle_y)
    distance = np.maximum(across, down) if number % 2 else np.hypot(across, down)
    covered = np.clip(radius - distance + 0.5, 0, 1)[..., None]  # T S S 1
    colour = np.array([37 * number % 230, 91 * number % 230, 151 * number % 230])
    return np.rint(255 + covered * (colour - 255)).astype(np.uint8)
