"""Attention over depth: what a layer sees is a mix of what earlier groups of blocks have added (`attn_res`).

A residual stream sums up all that earlier layers gave. Here the sums of groups stay apart, and each token
weighs them again before each layer: softmax over sources of query . norm(source), times the sources. The
sources are the embedded latents, the sum of each finished group, and the sum of the current one so far. Three
queries serve all blocks: before attention, before the feed-forward, before the final layer. They begin as
zeros, which give the plain average.

As queries are shared, a finished source is scored once.
Source: Attention Residuals as in SANA-Video 2.0 (NVlabs/Sana, sana_video2.py).
Shapes: B batch, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sanakit.models.layers import Linear
from sanakit.ops.gated_delta import wide

EPSILON = 1e-6  # of the norm of sources
ATTENTION, FEED_FORWARD, FINAL = range(3)  # the queries


class DepthAttention(nn.Module):
    """The three queries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn_proj, self.mlp_proj = Linear(width, 1, bias=False), Linear(width, 1, bias=False)
        self.final_proj = Linear(width, 1, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Set the published first queries, which average the sources."""
        for query in (self.attn_proj, self.mlp_proj, self.final_proj):
            nn.init.zeros_(query.weight)

    def scores(self, source: Tensor) -> Tensor:
        """Return how well a source (B N D) answers each query, B N 3, in float32 or float64."""
        queries = torch.cat([self.attn_proj.weight, self.mlp_proj.weight, self.final_proj.weight])
        x = wide(source)
        return x @ queries.to(x).T * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


class DepthSources:
    """The sources of one pass through the blocks, which it changes."""

    def __init__(self, attention: DepthAttention, x: Tensor) -> None:
        """attention: the queries. x: the embedded latents, B N D."""
        self._attention = attention
        self._finished = [x]
        self._scores = [attention.scores(x)]
        self._running: Tensor | None = None  # of the current group

    def mixed(self, query: int) -> Tensor:
        """Return what a layer sees, B N D. query: ATTENTION, FEED_FORWARD or FINAL."""
        sources, scores = self._finished, self._scores
        if self._running is not None:
            sources, scores = [*sources, self._running], [*scores, self._attention.scores(self._running)]
        weights = torch.stack([score[..., query] for score in scores]).softmax(0)[..., None]
        out = sources[0] * weights[0].to(sources[0].dtype)
        for source, weight in zip(sources[1:], weights[1:], strict=True):
            out = torch.addcmul(out, source, weight.to(source.dtype))
        return out

    def repeat(self, times: int) -> None:
        """Make the sources those of so many copies of the batch, one after another."""
        assert self._running is None, "copies are made before anything is added"
        self._finished = [source.repeat(times, 1, 1) for source in self._finished]
        self._scores = [score.repeat(times, 1, 1) for score in self._scores]

    def add(self, delta: Tensor) -> Tensor:
        """Add what a layer gave, B N D, to the current group; return the group's sum so far."""
        self._running = delta if self._running is None else self._running + delta
        return self._running

    def close(self) -> None:
        """End the current group: its sum is a source of its own."""
        assert self._running is not None, "a group has blocks"
        self._finished.append(self._running)
        self._scores.append(self._attention.scores(self._running))
        self._running = None
