"""A block's two ways: without gradients, with prepared prompts, the same; the feed-forward band by band."""

from __future__ import annotations

import pytest
import torch

from sanakit.models import layers
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video2.blocks import Rotations, SwiGLU, Video2Block
from sanakit.models.video.sana_video2.residuals import FINAL, DepthAttention, DepthSources
from sanakit.ops.rotary_linear_attention import rotations
from tests.models.video.sana_video2.written_out import TINY, apart


def turns() -> Rotations:
    each = (
        rotations(range(2), 2, 3, width).flatten(0, 1) for width in (TINY.head_dim, TINY.softmax_head_dim)
    )
    return Rotations(*(turn.to(torch.complex64) for turn in each))


@pytest.mark.parametrize("number", [0, 3])
@torch.no_grad()
def test_both_ways_give_one_sum(number):
    torch.manual_seed(0)
    block, attention = Video2Block(TINY, number).eval(), DepthAttention(TINY.width)
    assert block.is_softmax == (number == 3)
    for parameter in [*block.parameters(), *attention.parameters()]:
        torch.nn.init.normal_(parameter, std=0.2)
    x, captions = torch.randn(1, 12, TINY.width), [torch.randn(1, n, TINY.width) for n in (4, 2)]
    for modulation in (torch.randn(1, 6 * TINY.width), torch.randn(2, 6 * TINY.width)):  # of all; of frames
        sampled = DepthSources(attention, x)
        prompts = TextContext.of([block.cross_attn], [(caption, 1) for caption in captions], None).layers[0]
        own = modulation if len(modulation) == 1 else modulation.repeat(2, 1)
        both = block.sample(sampled, own, prompts, turns())
        sampled.close()
        for sample, caption in enumerate(captions):
            trained = DepthSources(attention, x)
            alone = block(trained, modulation, caption, None, turns())
            trained.close()
            assert apart(both[sample], alone[0]) < 1e-5
            assert apart(sampled.mixed(FINAL)[sample], trained.mixed(FINAL)[0]) < 1e-5


@torch.no_grad()
def test_the_feed_forward_is_the_same_in_bands(monkeypatch):
    torch.manual_seed(0)
    mlp, x = SwiGLU(16, 2.5), torch.randn(2, 37, 16)
    assert mlp.gate_proj.out_features == 40
    whole = mlp.bands(x)
    monkeypatch.setattr(layers, "_BAND_VALUES", 1000)
    assert layers.band(x, 1, 160) < 37
    assert apart(mlp.bands(x), mlp(x)) < 1e-6
    assert apart(whole, mlp(x)) < 1e-6
