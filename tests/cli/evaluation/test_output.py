"""Output of evaluations: the folder, the report, networks by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sanakit.cli.evaluation.output import output_folder, places_of_weights, save_report
from sanakit.errors import OutputError, SettingsError


def test_a_report_is_one_object_and_replaces_the_earlier_one(tmp_path: Path) -> None:
    folder = output_folder(tmp_path / "new" / "out")
    save_report(folder, {"a": 1})
    save_report(folder, {"place": folder, "each": {"x": 0.5}})
    assert json.loads((folder / "report.json").read_text()) == {"place": str(folder), "each": {"x": 0.5}}
    assert [path.name for path in folder.iterdir()] == ["report.json"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        output_folder(tmp_path / "file" / "out")


def test_networks_are_named_with_their_places() -> None:
    assert places_of_weights(["clip=a=b", "vqa=c"]) == {"clip": "a=b", "vqa": "c"}
    with pytest.raises(SettingsError, match="--weights clip names no folder"):
        places_of_weights(["clip"])
    with pytest.raises(SettingsError, match="'clop'"):
        places_of_weights(["clop=x"])
