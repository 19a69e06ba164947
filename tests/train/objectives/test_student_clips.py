"""Clips that a student draws while it is trained: nearer to the true ones along their own path, or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import ClipNetwork
from sanakit.train.objectives.student_clips import StudentClips
from sanakit.train.objectives.world_velocity import WatchedPaths, other_paths
from tests.train.objectives.test_world_velocity import PIXELS, STRIDE, cameras, make, speaking


def drawing(watched: Sequence[WatchedPaths] | None = None) -> tuple[StudentClips, WatchedPaths]:
    world = make()
    (one,) = world.watched
    assert isinstance(one, WatchedPaths)
    sampler = FewTimes.at((1.0, 0.6), None)
    how = {"chunk": 2, "sampler": sampler, "watched": watched or [one], "compression": (STRIDE, PIXELS)}
    return StudentClips(world.encoder, world.drawing, **how), one


def test_a_student_that_draws_what_its_path_shows_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    students, one = drawing()

    def along(self: StudentClips, student: ClipNetwork, one: WatchedPaths, paths: Sequence[int]) -> Tensor:
        wrong = torch.tensor([path != number for number, path in enumerate(paths)])
        wrong[2] = False  # one clip looks the same along both
        return one.latents + 0.5 * wrong.view(-1, 1, 1, 1, 1)

    monkeypatch.setattr(StudentClips, "along", along)
    measured = students.obedience(speaking())
    assert measured["unseen_obeyed"] == pytest.approx(2 / 3)
    assert measured["unseen_path_own"] == 0
    assert measured["unseen_path_other"] == pytest.approx(0.25 * 2 / 3)
    still = replace(one, cameras=one.cameras[:1].expand_as(one.cameras))
    assert drawing([still])[0].obedience(speaking()) == {}


def test_figures_are_those_of_what_is_drawn_along_each_path() -> None:
    students, one = drawing()
    student = speaking()
    measured, others = students.obedience(student), other_paths(one.cameras)
    assert all(other != number for number, other in enumerate(others))
    own, other = (students.along(student, one, way) for way in ([0, 1, 2], others))
    assert torch.equal(own[:, :, :1], one.latents[:, :, :1])
    assert not torch.equal(own, other)
    for drawn, name in ((own, "path_own"), (other, "path_other")):
        error = (drawn - one.latents)[:, :, 1:].square().mean().item()
        assert measured[f"unseen_{name}"] == pytest.approx(error, rel=1e-5)
    assert measured == students.obedience(student)


def test_a_sheet_has_three_rows_a_clip() -> None:
    students, one = drawing()
    shown: list[Tensor] = []
    students.drawing = replace(students.drawing, decode=lambda clips: shown.append(clips) or clips[:, :3])
    student = speaking()
    students.sheet(student)
    (rows,) = shown
    assert len(rows) == 9
    assert torch.equal(rows[0::3], one.latents)
    own = students.along(student, one, [0, 1, 2])
    torch.testing.assert_close(rows[1::3], own)
    assert not torch.allclose(rows[2::3], own)


def test_other_paths_are_told_apart_by_every_number() -> None:
    paths = cameras(2)
    assert other_paths(paths) == [1, 0]
    assert other_paths(paths[:1].expand(2, -1, -1)) == []
    close = paths[:1].repeat(2, 1, 1)
    close[1, -1, 3] += 1e-3
    assert other_paths(close) == [1, 0]
