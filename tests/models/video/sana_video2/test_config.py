"""Sizes of SANA-Video 2.0: where softmax attention lies, where groups end, what does not go together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video2 import SANA_VIDEO2_5B, SANA_VIDEO2_14B
from tests.models.video.sana_video2.written_out import TINY


def test_every_fourth_block_of_released_sizes_has_softmax_attention():
    assert SANA_VIDEO2_5B.softmax_blocks == tuple(range(3, 32, 4))
    assert SANA_VIDEO2_14B.softmax_blocks == tuple(range(3, 40, 4))


@pytest.mark.parametrize(
    ("depth", "share", "blocks"),
    [(5, 0.5, (1, 4)), (7, 0.5, (1, 3, 6)), (3, 0.25, (2,)), (1, 1.0, (0,)), (4, 1.0, (0, 1, 2, 3))],
)
def test_softmax_attention_is_spread_evenly_and_ends_the_depth(depth, share, blocks):
    assert replace(TINY, depth=depth, softmax_share=share).softmax_blocks == blocks


def test_the_last_group_may_be_shorter():
    config = replace(TINY, depth=7, group=3)
    assert [number for number in range(7) if config.ends_group(number)] == [2, 5, 6]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"softmax_head_dim": 24}, "softmax_head_dim is 24"),
        ({"softmax_head_dim": 4}, "softmax_head_dim is 4"),
        ({"head_dim": 24}, "not a multiple of head_dim 24"),
        ({"patch": 2}, "a token for each latent"),
        ({"qk_norm": False}, "norms of queries and keys"),
        ({"softmax_share": 0.0}, "softmax_share lies above 0"),
        ({"softmax_share": 1.5}, "softmax_share lies above 0"),
        ({"group": 0}, "group starts from 1"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(change, said):
    with pytest.raises(SettingsError, match=said):
        replace(TINY, **change)
