"""A run that trains a ControlNet: how many copies it has, and what its record holds."""

from __future__ import annotations

import inspect

import pytest

from sanakit.train.runs.control import control_run, copies_of


@pytest.mark.parametrize(("depth", "copies"), [(20, 7), (28, 7), (60, 7), (14, 7), (12, 6), (4, 2), (2, 1)])
def test_seven_blocks_are_copied_or_half_of_fewer(depth, copies):
    assert copies_of(depth) == copies


def test_its_settings_are_named_as_those_of_fine_tuning():
    from sanakit.train.runs.finetune import finetune_run

    ours, theirs = (list(inspect.signature(run).parameters) for run in (control_run, finetune_run))
    assert ours[:4] == theirs[:4]
    assert "workers" in ours
