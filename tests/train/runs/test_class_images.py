"""Images of a class: drawn once, each with its prompt; of another model they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sanakit.data.cache.store import Cache
from sanakit.errors import OutputError
from sanakit.train.runs.class_images import class_images
from sanakit.weights import load_text_encoder


def drawn(folder: Path, prompts: tuple[str, ...], count: int = 3, plan: str | None = None):
    return class_images(
        "pocket", prompts, count, folder, resolution=64, own=256, loading={"device": "cpu", "plan": plan}
    )


def test_they_are_drawn_once_in_turn_and_opened_again(tmp_path: Path) -> None:
    images = drawn(tmp_path, ("a fox", "a key"))
    assert isinstance(images.source, Cache)
    assert sorted(images.source[i].captions[0].text for i in range(3)) == ["a fox", "a fox", "a key"]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(files) == 3
    again = drawn(tmp_path, ("a fox", "a key"))
    assert again.fingerprint == images.fingerprint
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == files
    with pytest.raises(OutputError, match="Choose another folder"):
        drawn(tmp_path, ("a dog", "a key"))


def test_a_plan_quantises_the_text_encoder_that_reads_their_prompts(tmp_path: Path) -> None:
    images = drawn(tmp_path, ("a fox",), 1, "int4")
    assert isinstance(images.source, Cache)
    assert images.source.about.maker.plan == "int4"
    stored = images.source[0].text[0].float()
    few, whole = (load_text_encoder("pocket", plan=plan).encode(["a fox"])[0] for plan in ("int4", None))
    assert torch.allclose(stored, few.float(), atol=0.05, rtol=0.01)  # stored in bfloat16
    assert (stored - whole.float()).abs().max() > 4 * (stored - few.float()).abs().max()
