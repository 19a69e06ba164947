"""Attention over depth: averages at first, one source for a sharp query, the sources that are seen."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.video.sana_video2.residuals import (
    ATTENTION,
    FEED_FORWARD,
    FINAL,
    DepthAttention,
    DepthSources,
)


@pytest.fixture
def parts() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 5, 8) for _ in range(4)]


@torch.no_grad()
def test_queries_of_zeros_average_the_sources_that_are_there(parts):
    sources = DepthSources(DepthAttention(8), parts[0])
    assert torch.equal(sources.mixed(ATTENTION), parts[0])
    assert torch.allclose(sources.add(parts[1]), parts[1])
    assert torch.allclose(sources.mixed(FEED_FORWARD), (parts[0] + parts[1]) / 2)
    sources.add(parts[2])
    assert torch.allclose(sources.mixed(ATTENTION), (parts[0] + parts[1] + parts[2]) / 2, atol=1e-6)
    sources.close()
    assert torch.allclose(sources.mixed(FINAL), (parts[0] + parts[1] + parts[2]) / 2, atol=1e-6)
    sources.add(parts[3])  # a group begins at zero: the sum before is a source of its own
    third = (parts[0] + (parts[1] + parts[2]) + parts[3]) / 3
    assert torch.allclose(sources.mixed(FEED_FORWARD), third, atol=1e-6)


@pytest.mark.parametrize(
    ("query", "name"), [(ATTENTION, "attn_proj"), (FEED_FORWARD, "mlp_proj"), (FINAL, "final_proj")]
)
@torch.no_grad()
def test_each_query_asks_for_its_own_source(parts, query, name):
    """The length of a source does not count, its direction does."""
    attention = DepthAttention(8)
    sources = DepthSources(attention, parts[0])
    sources.add(0.01 * parts[1])
    sources.close()
    getattr(attention, name).weight.copy_(torch.randn(1, 8))
    fresh = DepthSources(attention, parts[0])
    fresh.add(0.01 * parts[1])
    fresh.close()
    others = {ATTENTION, FEED_FORWARD, FINAL} - {query}
    assert all(torch.equal(fresh.mixed(other), sources.mixed(other)) for other in others)
    directions = [
        part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() for part in (parts[0], 0.01 * parts[1])
    ]
    logits = torch.stack([(way * getattr(attention, name).weight[0]).sum(-1) for way in directions])
    weights = logits.softmax(0)[..., None]
    wanted = weights[0] * parts[0] + weights[1] * 0.01 * parts[1]
    assert torch.allclose(fresh.mixed(query), wanted, atol=1e-6)


@torch.no_grad()
def test_copies_of_the_sources_are_those_of_copies(parts):
    attention = DepthAttention(8)
    for weight in attention.parameters():
        weight.normal_()
    one, two = DepthSources(attention, parts[0]), DepthSources(attention, parts[0].repeat(2, 1, 1))
    one.repeat(2)
    more = torch.cat([parts[1], parts[2]])
    one.add(more)
    two.add(more)
    assert torch.allclose(one.mixed(ATTENTION), two.mixed(ATTENTION))
