"""Ablations of sprint distillation on a tiny teacher: all rows are trained, told, and not trained again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.train.objectives.sprint import SprintObjective, transformer_of
from sanakit.train.surgery import dense_time
from tests.tiny_image_model import save_tiny

UPDATES = 1

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository / "benchmarks")
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        patch.setattr(dense_time, "STEPS", 20)
        import distill

        yield distill
    for name in ("distill", "side_by_side"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    defaults = {"steps": 3, "guidance": 2.0, "solver": "dpm"}
    few_steps = {"qk_norm": True, "time_scale": 1.0}
    return save_tiny(
        tmp_path_factory.mktemp("models") / "tiny", defaults=defaults, depth=2, channels=4, **few_steps
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(7)
    for number in range(6):
        soft = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        soft.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a red apple {number}\n")
    return folder


@pytest.fixture(scope="module")
def make(benchmark: ModuleType, teacher: Path, pictures: Path) -> Callable[..., Any]:
    def make(output: Path, updates: int = UPDATES) -> Any:
        return benchmark.Ablating(str(teacher), pictures, output, updates, 4, 0)

    return make


@pytest.fixture(scope="module")
def done(benchmark: ModuleType, make: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All rows, in their folder."""
    ablating = make(tmp_path_factory.mktemp("rows"))
    for name in benchmark.ABLATIONS:
        ablating.row(name)
    return ablating


def test_every_row_is_trained_and_has_its_distances(benchmark: ModuleType, done: Any) -> None:
    rows = json.loads((done.output / benchmark.RECORD).read_text())["rows"]
    students = list(benchmark.ABLATIONS)
    assert list(rows) == ["teacher-3", "teacher-1", "teacher-2", "teacher-4", *students]
    assert rows["teacher-3"]["rms"] == {"3": 0.0}
    for name in students:
        assert set(rows[name]["rms"]) == {"1", "2", "4"}
        assert all(0 < value < 10 for value in rows[name]["rms"].values()), name
        steps = [json.loads(line) for line in (done.output / name / "log.jsonl").read_text().splitlines()]
        assert steps[-1]["step"] == (UPDATES if name == "scm" else 2 * UPDATES), name
    table = [line for line in done.lines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert table[-1].startswith("| times 1000 t |")


def test_rows_differ_as_their_settings_do(benchmark: ModuleType, done: Any) -> None:
    firsts = {name: done.record["rows"][name]["rms"]["1"] for name in benchmark.ABLATIONS}
    # The first step of AdamW goes by signs of gradients, which the angles of a few drawings do not change.
    for name in set(benchmark.ABLATIONS) - {"both", "no-pure-noise"}:
        assert firsts[name] != firsts["both"], name


def test_one_step_of_a_student_is_its_noise_without_its_velocity(done: Any) -> None:
    objective: SprintObjective = done.objective
    student = transformer_of(objective.model).eval()
    encoder = objective.velocity.encoder
    with torch.no_grad():
        context = student.prepare(encoder.encode(list(done.captions), notes=[]))
        wanted = done.noise - student.velocity(done.noise, 1.0, context, objective.middle)
    from distill import _by_student

    found = _by_student(student, objective, done.captions, done.noise, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_is_done_is_not_trained_again_and_goes_on_where_it_stopped(
    benchmark: ModuleType, make: Callable[..., Any], done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads((done.output / benchmark.RECORD).read_text())["rows"]
    again = make(done.output)
    monkeypatch.setattr(again, "_objective", lambda ablation: pytest.fail("a row was made again"))
    for name in benchmark.ABLATIONS:
        again.row(name)
    assert again.record["rows"] == rows
    assert again.lines() == done.lines()


def test_rows_of_other_settings_are_refused(make: Callable[..., Any], done: Any) -> None:
    with pytest.raises(SettingsError, match="another settings and recipe: choose another --output"):
        make(done.output, updates=10)


def test_each_ablation_changes_what_it_is_called(benchmark: ModuleType, done: Any) -> None:
    aims = {name: one.change(done.aim) for name, one in benchmark.ABLATIONS.items()}
    told = [benchmark.ABLATIONS[name].told for name in ("scm", "ladd", "no-tangent", "not-normalised")]
    assert [one.split()[0] for one in told] == ["sCM", "LADD", "r", "tangent"]
    assert aims["both"] == aims["rough-time"] == done.aim
    assert aims["scm"] == replace(done.aim, adversarial=None)
    assert aims["ladd"].consistency == replace(done.aim.consistency, weight=0.0)
    assert aims["no-pure-noise"].adversarial.pure_noise == 0
    assert aims["no-tangent"].consistency.ramp(10**6) == 0
    assert not aims["not-normalised"].consistency.normalise
    assert aims["one-scale"].consistency.guidance == (2.0,)
    rough = done._objective(benchmark.ABLATIONS["rough-time"])
    assert rough.teacher.config.time_scale == rough.student.config.time_scale == 1000
    assert done.objective.teacher.config.time_scale == 1
