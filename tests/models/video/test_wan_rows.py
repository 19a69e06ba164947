"""What nodes keep of a clip between chunks: nothing of a chunk that is the last."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sanakit.models.video.wan_blocks import CausalConv
from sanakit.models.video.wan_rows import Chunk, FrameHistory, wan_node


def test_history_gives_the_last_frames_of_each_row_and_zeros_at_first():
    chunk = Chunk(1)
    history = FrameHistory(2, chunk)
    first, second = torch.arange(1.0, 13).view(3, 4, 1, 1), torch.arange(13.0, 17).view(1, 4, 1, 1)
    for top in (0, 2):
        rows = history.before(first[:, top : top + 2], last=top == 2)
        assert torch.equal(rows[0, :2], torch.zeros(2, 2, 1, 1))
    chunk.first, chunk.final = False, True
    for top in (0, 2):
        rows = history.before(second[:, top : top + 2], last=top == 2)
        assert torch.equal(rows[0, :2], first[1:, top : top + 2])


def test_history_of_a_chunk_of_one_frame_keeps_the_one_before_too():
    history = FrameHistory(2, Chunk(1))
    for value in (1.0, 2.0, 3.0):
        rows = history.before(torch.full((1, 2, 1, 1), value), last=True)
    assert rows[0, :, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_final_chunk_keeps_no_frames():
    chunk = Chunk(2, final=True)
    history = FrameHistory(2, chunk)
    history.before(torch.ones(6, 4, 3, 2), last=True)
    assert history.kept is None
    assert history.pieces == []


def test_a_module_without_a_version_for_rows_is_refused():
    with pytest.raises(TypeError, match="Linear has no version for rows"):
        wan_node(nn.Linear(2, 2), Chunk(1))
    assert wan_node(CausalConv(3, 5), Chunk(1)).width == 5
