"""Captions with a motion score behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.data.batches.motion_score import MotionScored
from sanakit.data.medium import CLIPS
from sanakit.data.read.open import open_source
from sanakit.errors import SettingsError
from tests.data.clip_files import counted


def test_all_captions_have_the_score_and_another_score_is_another_set_of_captions(tmp_path: Path) -> None:
    counted(tmp_path / "a.webp", 3, caption="a disc\nit moves")
    counted(tmp_path / "b.webp", 3)
    source = open_source(tmp_path, CLIPS)
    scored = MotionScored(source, 12)
    assert [c.text for c in scored.captions(0)] == ["a disc motion score: 12.", "it moves motion score: 12."]
    assert scored.captions(1) == ()
    assert (scored.key(1), len(scored), scored.medium) == ("b.webp", 2, CLIPS)
    assert scored.fingerprint() == source.fingerprint()
    told = {s.captions_fingerprint() for s in (source, scored, MotionScored(source, 13))}
    assert len(told) == 3


@pytest.mark.parametrize("score", [-1, 101, 2.5, True])
def test_a_score_that_is_none_is_refused(score, tmp_path: Path) -> None:
    counted(tmp_path / "a.webp", 3)
    with pytest.raises(SettingsError, match="a whole number, 0 to 100"):
        MotionScored(open_source(tmp_path, CLIPS), score)
