"""Settings and clips that no student of few steps can be trained with are refused."""

from __future__ import annotations

import pytest

from sanakit.errors import SettingsError
from sanakit.models.video.wan_config import WanVAEConfig
from sanakit.train.runs.causal.taught import CausalAim, check_length
from sanakit.weights.video.settings import WORLD_CHUNKS, ChunkSettings


def test_students_of_few_steps_need_times() -> None:
    with pytest.raises(SettingsError, match="need times"):
        _ = CausalAim(chunks=ChunkSettings(times=None)).sampler
    assert not CausalAim(chunks=WORLD_CHUNKS).sampler.fresh
    assert CausalAim().sampler.fresh


def test_clips_of_a_single_chunk_are_refused() -> None:
    rule = WanVAEConfig().frame_rule
    check_length(6, rule, 3)
    with pytest.raises(SettingsError, match=r"Most clips have 17 frames.*train on clips of 21 frames"):
        check_length(5, rule, 3)
