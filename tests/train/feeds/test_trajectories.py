"""Trajectories in a folder: whole or not at all, the same after a kill, and refused where they are others."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.errors import DataError, NumericsError
from sanakit.train.feeds.trajectories import AboutTrajectories, Trajectories, build_trajectories
from sanakit.train.parts import Share

ABOUT = AboutTrajectories(
    teacher={"transformer": "exact-1"},
    times=(1.0, 0.5),
    levels=(1.0, 0.5, 0.0),
    shift=3.0,
    steps=4,
    guidance=2.0,
    negative="",
    shape=(2, 3, 2, 2),
    seed=7,
    prompts=tuple(f"prompt {number}" for number in range(6)),
)


def draw(number: int) -> Tensor:
    """Return states that depend on the noise of their number alone."""
    noise = ABOUT.noise(number)
    return torch.stack([noise, noise / 2, noise / 4])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_read_is_what_was_drawn_to_half_precision(tmp_path: Path) -> None:
    build_trajectories(tmp_path, ABOUT, draw, Share())
    made = Trajectories(tmp_path)
    assert (len(made), made.about) == (6, ABOUT)
    assert torch.equal(made.states([5, 0]), torch.stack([draw(5), draw(0)]).half().float())
    assert not torch.equal(ABOUT.noise(0), ABOUT.noise(1))


def test_what_was_interrupted_is_continued_and_two_processes_share_the_work(tmp_path: Path) -> None:
    build_trajectories(tmp_path / "whole", ABOUT, draw, Share())
    drawn: list[int] = []

    def counted(number: int) -> Tensor:
        drawn.append(number)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(number)

    with pytest.raises(KeyboardInterrupt):
        build_trajectories(tmp_path / "parts", ABOUT, counted, Share())
    with pytest.raises(DataError, match="lacks 4 of 6"):
        Trajectories(tmp_path / "parts")
    drawn = [-1, -1, -1]
    for rank in (1, 0):
        build_trajectories(tmp_path / "parts", ABOUT, counted, Share(rank, 2))
    assert sorted(drawn[3:]) == [2, 3, 4, 5]
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


@pytest.mark.thorough
def test_what_was_killed_is_continued_to_the_bit(tmp_path: Path) -> None:
    """Killed while it draws and writes; nothing unfinished stays."""
    process = subprocess.Popen([sys.executable, __file__, str(tmp_path / "killed")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # one is drawn: the next moments write it and the ones behind
    time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "killed" / "trajectories.json").exists()
    for name in ("killed", "whole"):
        build_trajectories(tmp_path / name, ABOUT, draw, Share())
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"guidance": 3.0}, r"guidance = 2.0 there, 3.0 here"),
        ({"teacher": {"transformer": "exact-2"}}, "teacher"),
        ({"prompts": ABOUT.prompts[:5]}, "6 prompts there, 5 others here"),
        ({"levels": (1.0, 0.4, 0.0)}, "levels"),
    ],
)
def test_other_trajectories_are_not_mixed_in(tmp_path: Path, changed: dict[str, object], told: str) -> None:
    build_trajectories(tmp_path, ABOUT, draw, Share())
    before = content(tmp_path)
    with pytest.raises(DataError, match=told):
        build_trajectories(tmp_path, replace(ABOUT, **changed), draw, Share())  # pyright: ignore[reportArgumentType]
    assert content(tmp_path) == before


def test_damage_is_told_by_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not describe trajectories"):
        Trajectories(tmp_path)
    build_trajectories(tmp_path, ABOUT, draw, Share())
    path = tmp_path / "0000" / "000002.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"000002.safetensors cannot be read"):
        Trajectories(tmp_path).states([2])
    with pytest.raises(NumericsError, match=r"Trajectory 0 \('prompt 0'\) is not finite"):
        build_trajectories(tmp_path / "new", ABOUT, lambda number: draw(number) * 1e6, Share())


if __name__ == "__main__":

    def told(number: int) -> Tensor:
        print(number, flush=True)
        return draw(number)

    build_trajectories(Path(sys.argv[1]), ABOUT, told, Share())
