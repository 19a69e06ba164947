"""An adapter as tensors: scales, rows, copies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.adapters.loras import lora


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 2.0), (True, 4.0)])
def test_the_scale_is_alpha_by_rank_or_by_its_root(stabilised: bool, scale: float) -> None:
    (part,) = lora(["blocks.0.attn.qkv"], rank=4, alpha=8.0).parts
    assert replace(part, stabilised=stabilised).scale == scale


def test_a_cut_part_changes_its_own_rows_alone() -> None:
    (part,) = lora(["transformer_blocks.1.attn2.to_v"], dora=True).parts
    cut = part.cut(slice(8, 20))
    assert (cut.place.start, cut.place.stop) == (part.place.start + 8, part.place.start + 20)
    assert torch.equal(cut.up @ cut.down, (part.up @ part.down)[8:20])
    assert cut.magnitude is not None
    assert part.magnitude is not None
    assert torch.equal(cut.magnitude, part.magnitude[8:20])
    assert cut.scale == part.scale


def test_another_dtype_is_a_copy() -> None:
    adapter = lora(dora=True)
    copy = adapter.to(torch.float32)
    for ours, theirs in zip(copy.tensors(), adapter.tensors(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
    assert adapter.to(torch.bfloat16).bytes * 2 == adapter.bytes == sum(t.nbytes for t in adapter.tensors())
