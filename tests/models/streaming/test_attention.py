"""SANA-Streaming's attention: the middle tap, the chunks that are kept, gates that begin open alike."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from sanakit.models.streaming.attention import EditDeltaAttention, EditSoftmaxAttention, MiddleTap
from sanakit.models.video.sana_video_blocks import ClipGrid
from sanakit.models.world.attention import WorldView
from sanakit.ops.rotary_linear_attention import rotations
from tests.models.streaming.edits import TINY
from tests.models.video.sana_video2.written_out import apart


def view(frames: range, chunks: list[int] | None = None) -> WorldView:
    turns = rotations(frames, 2, 3, TINY.head_dim).to(torch.complex64)
    return WorldView(ClipGrid(2, 3, turns), chunks or [len(frames)])


def test_the_middle_tap_is_a_convolution_whose_neighbours_weigh_nothing():
    torch.manual_seed(0)
    layer, x = MiddleTap(8, 5), torch.randn(3, 7, 8)
    alone = torch.zeros_like(layer.weight)
    alone[..., 2] = layer.weight[..., 2]
    wanted = F.conv1d(x.transpose(1, 2), alone, padding=2).transpose(1, 2)
    assert apart(layer(x), wanted) < 1e-6


@torch.no_grad()
def test_softmax_attention_keeps_the_first_chunks_and_the_last():
    torch.manual_seed(0)
    config = replace(TINY, sink_chunks=1, recent_chunks=2)
    attention, x = EditSoftmaxAttention(config), torch.randn(1, 30, 64)
    past, kept = None, []
    for number in range(5):
        _, past = attention(x[:, 6 * number : 6 * number + 6], view(range(number, number + 1)), past)
        kept.append([part.value[0, 0, 0, 0].item() for part in past])
    values = attention.v(x)[0, ::6, 0].tolist()
    assert [len(part) for part in kept] == [1, 2, 3, 3, 3]
    assert torch.allclose(torch.tensor(kept[4]), torch.tensor([values[0], values[3], values[4]]), atol=1e-6)


@torch.no_grad()
def test_several_chunks_at_once_see_what_they_see_one_after_another():
    torch.manual_seed(0)
    for kind in (EditSoftmaxAttention, EditDeltaAttention):
        attention, x = kind(TINY), torch.randn(2, 36, 64)
        whole, _ = attention(x, view(range(6), [1, 1, 2, 2]), None)
        past, outs = None, []
        for start, end in ((0, 1), (1, 2), (2, 4), (4, 6)):
            out, past = attention(x[:, 6 * start : 6 * end], view(range(start, end)), past)
            outs.append(out)
        assert apart(torch.cat(outs, dim=1), whole) < 1e-5


@torch.no_grad()
def test_a_first_gate_lets_all_channels_pass_alike():
    torch.manual_seed(0)
    attention, x = EditDeltaAttention(TINY), torch.randn(1, 12, 64)
    attention.init_gates()
    gate = F.silu(attention.output_gate(x))
    assert torch.allclose(gate, F.silu(torch.ones(1)).expand_as(gate))
