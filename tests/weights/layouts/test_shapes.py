"""Shapes by official names: what is missing or of other axes is refused, blocks are found by a tensor."""

from __future__ import annotations

import pytest

from sanakit.errors import WeightsError
from sanakit.weights.layouts.shapes import Shapes
from sanakit.weights.read.header import TensorInfo

NAMES = (
    "blocks.0.attn.q.weight",
    "blocks.12.attn.q.weight",
    "blocks.3.attn.q.weights",
    "x.blocks.4.attn.q.weight",
)
INFOS = {name: TensorInfo((4, 2), "float32") for name in NAMES}


def test_a_shape_is_that_of_the_stored_name() -> None:
    shapes = Shapes(INFOS, "SANA", "the file", lambda name: name.replace("first", "blocks.0"))
    assert shapes.need("first.attn.q.weight", 2) == (4, 2)
    with pytest.raises(WeightsError, match=r"the file is not a SANA transformer: last is missing\."):
        shapes.need("last", 2)
    with pytest.raises(WeightsError, match=r"first.attn.q.weight is \(4, 2\)\."):
        shapes.need("first.attn.q.weight", 4)


def test_blocks_are_those_that_have_a_tensor_of_just_this_name() -> None:
    shapes = Shapes(INFOS, "SANA", "the file")
    assert shapes.blocks("attn.q.weight") == {0, 12}
    assert shapes.blocks("attnXq.weight") == set()
