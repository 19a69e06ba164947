"""Block-causal attention written out over all pairs of tokens, for a whole clip at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.models.video import sana_video_blocks
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.sana_video_blocks import ClipFFN
from tests.models.video.clips import TINY


class QuadraticAttention:
    """What attention sums, written out over all pairs of tokens of earlier and the same chunks.

    window: how many earlier chunks are seen; None: all.
    """

    def __init__(self, chunks: list[int], tokens: int, window: int | None = None) -> None:
        chunk = torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor(chunks) * tokens)
        distance = chunk[:, None] - chunk
        self.seen = ((distance >= 0) & (distance <= (len(chunks) if window is None else window))).double()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, turns: Tensor) -> Tensor:
        def rotated(x: Tensor) -> Tensor:
            return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns[:, None])

        query, key = query.relu(), key.relu()
        weights = torch.einsum("bnhpx,bmhpx->bhnm", rotated(query), rotated(key)) * self.seen
        totals = torch.einsum("bnhi,bmhi->bhnm", query, key) * self.seen
        return torch.einsum("bhnm,bmhd->bnhd", weights / (totals.sum(-1, keepdim=True) + 1e-15), value)


def masked(
    model: SanaVideo, some: dict[str, Tensor], chunks: list[int], monkeypatch, window: int | None = None
) -> Tensor:
    """The whole clip at once: attention under a mask, and a convolution over time that cuts at chunks."""
    attention, tokens = QuadraticAttention(chunks, 6, window), 6

    def forward(self, x, grid, given_chunks):
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        parts = (self._heads(part) for part in (self.q_norm(query), self.k_norm(key), value))
        return self.proj(attention(*parts, grid.rotation.flatten(0, 1)).flatten(2))

    ends = torch.tensor(chunks).cumsum(0)[:-1]

    def over_time(self, y, before):
        past, now, future = self.t_conv.weight[..., 0].unbind(-1)
        left = F.pad(y, (0, 0, 0, 0, 1, 0))[:, :-1]
        right = F.pad(y, (0, 0, 0, 0, 0, 1))[:, 1:].clone()
        right[:, ends - 1] = 0
        return y + left @ past.T + y @ now.T + right @ future.T

    monkeypatch.setattr(sana_video_blocks.ClipSelfAttention, "forward", forward)
    monkeypatch.setattr(ClipFFN, "over_time", over_time)
    assert tokens == some["latents"].shape[3] * some["latents"].shape[4] // TINY.patch**2
    out = model(**some)  # as one chunk: the cuts are in what was put in
    monkeypatch.undo()
    return out
