"""Sizes of SANA-Streaming: where softmax attention lies, and what does not go together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sanakit.errors import SettingsError
from sanakit.models.streaming.config import SANA_STREAMING_2B, SANA_STREAMING_2B_BIDIRECTIONAL
from tests.models.streaming.edits import TINY


def test_every_fourth_block_of_the_released_size_has_softmax_attention():
    for config in (SANA_STREAMING_2B, SANA_STREAMING_2B_BIDIRECTIONAL):
        assert config.softmax_blocks == (3, 7, 11, 15, 19)
    assert replace(TINY, softmax_share=0.0).softmax_blocks == ()
    assert replace(TINY, depth=5, softmax_share=0.5).softmax_blocks == (1, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch": 2}, "a token for each latent"),
        ({"qk_norm": False}, "norms of queries and keys"),
        ({"variant": "chunk_causal"}, "use bidirectional or streaming"),
        ({"softmax_share": -0.1}, "softmax_share lies from 0 to 1"),
        ({"softmax_taps": 2}, "an odd number"),
        ({"sink_chunks": -1}, "start from 0"),
        ({"head_dim": 24}, "not a multiple of head_dim 24"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(change, said):
    with pytest.raises(SettingsError, match=said):
        replace(TINY, **change)
