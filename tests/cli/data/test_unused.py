"""Warnings about what a data set holds and is not used."""

from __future__ import annotations

import pytest

from sanakit.cli.data.unused import MOST, warn_unused


def test_each_reason_is_a_warning_and_more_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    warn_unused({f"{number}.png": f"has {number} px" for number in range(MOST + 2)})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MOST + 1
    assert lines[0] == "Warning: 0.png: has 0 px"
    assert lines[-1] == "Warning: and 2 more: --json lists them"
    warn_unused({})
    assert capsys.readouterr().err == ""
