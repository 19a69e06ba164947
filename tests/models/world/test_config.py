"""Sizes of world models: which blocks have what, and what does not go together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sanakit.errors import SettingsError
from sanakit.models.world.config import SANA_WM_1600M, VARIANTS, SanaWMConfig
from tests.models.world.worlds import TINY


def test_every_fourth_block_of_the_released_size_has_softmax_attention():
    softmax = [block for block in range(SANA_WM_1600M.depth) if SANA_WM_1600M.is_softmax(block)]
    assert softmax == [3, 7, 11, 15, 19]
    assert not any(replace(SANA_WM_1600M, softmax_every=0).is_softmax(block) for block in range(20))


def test_the_first_blocks_may_alone_have_rays_added():
    assert all(TINY.has_plucker(block) for block in range(TINY.depth))
    assert [replace(TINY, plucker_blocks=1).has_plucker(block) for block in range(3)] == [True, False, False]


def test_variants_are_told_by_their_published_names():
    assert VARIANTS == ("bidirectional", "chunk_causal", "streaming")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head_dim": 20, "width": 60}, "multiple of 8"),
        ({"head_dim": 4, "width": 64}, "at least 6"),
        ({"width": 65}, "not a multiple"),
        ({"patch": 2}, "a token for each latent"),
        ({"qk_norm": False}, "norms of queries and keys"),
        ({"taps": 0}, "taps start from 1"),
        ({"plucker_channels": 40}, "multiple of 6"),
        ({"softmax_every": -1}, "start from 0"),
        ({"recent_chunks": -1}, "start from 0"),
        ({"variant": "causal"}, "use bidirectional, chunk_causal, streaming"),
        ({"guidance_embed": True}, "no guidance scale"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(change, said):
    with pytest.raises(SettingsError, match=said):
        SanaWMConfig(**{"depth": 1, "width": 64, "cross_heads": 2, "head_dim": 32} | change)
