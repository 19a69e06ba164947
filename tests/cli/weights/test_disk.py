"""`sana pull`, `list`, `rm`: what they print, and that nothing is deleted unasked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sanakit.weights.find import cached
from sanakit.weights.find.cached import ModelHere, Shelf

MINE = ModelHere(
    name="someone/mine",
    kind="downloaded",
    path="/cache/models--someone--mine",
    bytes=5_000_000,
    last_used="2026-11-01T10:00:00+00:00",
    licence="",
)


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[ModelHere]:
    """What was deleted, of a disk with one download."""
    gone: list[ModelHere] = []

    def remove(model: ModelHere) -> int:
        gone.append(model)
        return model.bytes

    embedded = cached.models_here().models[0]
    monkeypatch.setattr(
        cached, "models_here", lambda: Shelf(models=(embedded, MINE), others=2, other_bytes=10)
    )
    monkeypatch.setattr(cached, "remove_model", remove)
    return gone


def test_the_list_tells_sizes_places_and_what_is_left_out(sana, removed) -> None:
    out = sana("list").out
    row = next(line for line in out.splitlines() if line.startswith("someone/mine"))
    assert row.split() == ["someone/mine", "5.0", "MB", "2026-11-01", "/cache/models--someone--mine"]
    assert "pocket " in out.splitlines()[0]
    assert "embedded" in out.splitlines()[0]
    assert out.endswith("2 other repositories in the Hub's cache, 10 B: `hf cache ls` lists them.\n")
    assert [model["name"] for model in json.loads(sana("list", "--json").out)["models"]] == [
        "pocket",
        "someone/mine",
    ]


def test_a_download_that_was_interrupted_is_not_listed_as_whole(sana, removed, monkeypatch) -> None:
    assert "in part" not in sana("list").out
    part = replace(MINE, whole=False)
    monkeypatch.setattr(cached, "models_here", lambda: Shelf(models=(part,), others=0, other_bytes=0))
    assert sana("list").out.splitlines()[-1].strip() == "in part: `sana pull someone/mine` completes it"
    assert json.loads(sana("list", "--json").out)["models"][0]["whole"] is False


def test_nothing_is_deleted_without_a_yes(sana, removed) -> None:
    outcome = sana("rm", "someone/mine")
    assert (outcome.code, removed) == (2, [])
    assert "--yes" in outcome.err
    assert sana("rm", "someone/mine", "-y").out == "someone/mine: 5.0 MB are free again.\n"
    assert removed == [MINE]
    assert json.loads(sana("rm", "someone/mine", "--yes", "--json").out)["freed"] == 5_000_000
    assert "sana list" in sana("rm", "nobody/knows", "--yes").err


def test_an_embedded_model_stays(sana) -> None:
    outcome = sana("rm", "pocket", "--yes")
    assert outcome.code == 2
    assert "part of this package" in outcome.err


def test_pulling_an_embedded_model_tells_where_it_is(sana) -> None:
    out = sana("pull", "pocket").out
    assert out.startswith("pocket  ")
    assert Path(out.split()[1]).is_dir()
    assert json.loads(sana("pull", "pocket", "--json").out)["kind"] == "embedded"


def test_pulling_what_there_is_not_is_one_sentence(sana) -> None:
    outcome = sana("pull", "pokcet")
    assert (outcome.code, outcome.out) == (2, "")
    assert "pocket" in outcome.err
