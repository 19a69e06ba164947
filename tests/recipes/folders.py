"""Folders of images to train on, some of them broken, and what trains on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from sanakit.recipes import finetune
from sanakit.train.objectives.velocity import VelocityObjective

BROKEN = {"empty.png", "cut.jpg", "words.png"}
Command = Callable[..., tuple[str, str]]
Writer = Callable[..., Path]


def add_broken(folder: Path) -> Path:
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.png").write_text("this is not an image")
    whole = folder / "whole.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole)
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()
    for name in BROKEN:
        (folder / name).with_suffix(".txt").write_text("a red apple\ntwo green foxes\n")
    return folder


def made(data: Path, output: Path, source: Path, *, batch_size: int) -> VelocityObjective:
    run = finetune.finetune(data, output, 3, source=source, batch_size=batch_size)
    assert isinstance(run.objective, VelocityObjective)
    return run.objective
