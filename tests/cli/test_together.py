"""A command on several processes: the first one chooses for all, each has its own device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sanakit.cli.together import Together, check_alone, together
from sanakit.errors import SettingsError
from sanakit.train.distributed import parallel
from sanakit.train.parts import Share


def test_alone_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(parallel, "processes", None)
    with together("drawing") as one:
        assert one == Together()
        assert one.chief
        assert one.of_chief(lambda: 5) == 5
        assert one.device("auto") == "auto"


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "a fox"),
        ("edit", "a.png", "a fox"),
        ("best-of", "a fox"),
        ("world", "a.png"),
        ("data", "score", "x"),
        ("evaluate", "x"),
        ("convert", "x", "y"),
        ("serve",),
    ],
)
def test_a_command_that_torchrun_would_do_several_times_is_refused(
    sana, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    outcome = sana(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == f"Error: sana {words[0]} is for one process: start it without torchrun.\n"
    assert sana(words[0], "--help").code == 0
    assert sana("train", "nope").err.startswith("Error: There is no recipe")


def test_a_cluster_that_sets_world_size_alone_started_one_process(
    sana, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    check_alone("sana generate")
    with together("drawing") as one:
        assert one == Together()
    assert "for one process" not in sana("convert", "missing", "y").err


def test_the_first_of_several_chooses_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[str] = []

    @contextmanager
    def processes(work: str) -> Iterator[Share]:
        joined.append(work)
        yield Share(1, 2)

    def broadcast(values: list[Any], chief: int) -> None:
        assert values == [None], "the second one chooses nothing"
        values[0] = "a fox"

    def never() -> str:
        raise AssertionError("it is not asked")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(parallel, "processes", processes)
    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    with together("drawing") as second:
        assert joined == ["drawing"]
        assert not second.chief
        assert second.of_chief(never) == "a fox"
        assert second.device("cpu") == "cpu"
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert second.device("auto") == "cuda:1"


def test_what_is_for_one_process_is_refused_for_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    check_alone("sana world")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SettingsError, match="sana world is for one process: start it without torchrun"):
        check_alone("sana world")
