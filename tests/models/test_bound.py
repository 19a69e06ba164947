"""A bound model is its base in all but its velocity."""

from __future__ import annotations

import torch

from sanakit.models.bound import BoundModel
from tests.models.video.sana_video2.written_out import TINY, randomised


@torch.no_grad()
def test_sizes_blocks_dtype_and_prompts_are_those_of_the_base() -> None:
    torch.manual_seed(0)
    base = randomised(TINY).bfloat16()
    bound, text = BoundModel(base), [torch.randn(3, TINY.text_width), torch.randn(2, TINY.text_width)]
    assert (bound.config, bound.dtype) == (TINY, torch.bfloat16)
    assert list(bound.blocks) == list(base.blocks)
    ours, theirs = bound.prepare(text, [2, 1]), base.prepare(text, [2, 1])
    assert ours.batch == 3
    for own, other in zip(ours.layers, theirs.layers, strict=True):
        for one, wanted in zip(own, other, strict=True):
            assert one.count == wanted.count
            assert one.key is not None
            assert wanted.key is not None
            assert torch.equal(one.key, wanted.key)
