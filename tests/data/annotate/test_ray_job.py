"""Captions by several processes are those of one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from sanakit.data.annotate.job import Captioning, annotate, run_here
from sanakit.data.annotate.ray_job import annotate_on_cluster
from sanakit.data.read.open import open_source
from sanakit.data.read.sidecar import SIDECAR
from sanakit.errors import BusyError, MissingExtraError, SanaError, SettingsError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for index, colour in enumerate(("red", "lime", "blue", "red", "lime")):
        Image.new("RGB", (16, 8), colour).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    return tmp_path


def captioning(failing: bool = False) -> Captioning:
    def caption(images):  # travels to Ray's processes by its code: they cannot import this file
        if failing:
            raise BusyError("come again")
        return [f"a square of {image.getpixel((0, 0))}" for image in images]

    return Captioning(name="seer", load=lambda: caption)


def test_without_ray_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    run = partial(annotate_on_cluster, place=str(folder), workers=1)
    with pytest.raises(MissingExtraError, match=r"sanakit\[cluster\]"):
        annotate(open_source(folder), captioning(), folder / SIDECAR, run)


@pytest.mark.slow
def test_the_same_rows_are_written_as_by_one_process(folder: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    try:
        source = open_source(folder)
        on_ray = partial(annotate_on_cluster, place=str(folder), workers=2, batch_size=2, device="cpu")
        report = annotate(source, captioning(), folder / "ray.jsonl", on_ray)
        assert (report.done, list(report.broken)) == (5, ["broken.png"])
        annotate(source, captioning(), folder / SIDECAR, partial(run_here, source=source, batch_size=2))
        lines = [(folder / name).read_text().splitlines() for name in ("ray.jsonl", SIDECAR)]
        assert sorted(lines[0]) == sorted(lines[1])
        with pytest.raises(SettingsError, match="use at most"):
            annotate(source, captioning(), folder / "other.jsonl", partial(on_ray, workers=999))
        with pytest.raises(SanaError, match="come again"):
            annotate(source, captioning(failing=True), folder / "other.jsonl", on_ray)
    finally:
        ray.shutdown()
