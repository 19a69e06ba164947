"""Depth growth: a trained transformer becomes a deeper one that starts as good as it was (SANA-1.5).

Partial preservation: the first blocks are copied, the last `drop_last` left out, since they had specialised
in feeding the output layer; new blocks follow, then the old output layer. A new block begins as the identity:
the output projections of its three branches (self-attention, cross-attention, Mix-FFN) are zero, so that its
residuals add nothing; they are the first to learn.

The rest of a new block is initialised as for training from scratch, not copied from an old block. Copies of
one block would all see the same tokens, get the same gradients and learn the same. Gradients reach them at
once: the gates of all blocks come mostly from the shared `t_block`, which is trained already.

Source: SANA-1.5 (arXiv:2501.18427): 20 blocks to 60, the last 2 of the 20 dropped.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaBlock


def grow(transformer: Sana, depth: int, *, drop_last: int = 2) -> Sana:
    """Return a transformer of `depth` blocks that begins with the blocks of a trained one.

    depth: at least that of `transformer`.   drop_last: how many of its last blocks are not taken over, from 0
    (then the grown model gives exactly the same velocities) to all but one.
    The new blocks are drawn with torch's global generator; the grown model shares no memory with the old one.
    Raises SettingsError for a depth or drop_last out of its range.
    """
    old = transformer.config.depth
    if not 0 <= drop_last < old:
        raise SettingsError(f"drop_last is {drop_last}: with {old} blocks it must lie in [0, {old - 1}].")
    if depth < old:
        raise SettingsError(f"{old} blocks cannot grow to {depth}: use at least {old}, or prune.")
    kept = old - drop_last
    like = next(transformer.parameters())
    grown = Sana(replace(transformer.config, depth=depth))
    grown.init_weights()
    grown.to(like.device, like.dtype)
    state = {name: tensor for name, tensor in transformer.state_dict().items() if _before(name, kept)}
    fresh, unknown = grown.load_state_dict(state, strict=False)
    assert not unknown
    assert not any(_before(name, kept) for name in fresh)
    for block in grown.blocks[kept:]:
        silence(block)
    return grown.train(transformer.training)


def silence(block: SanaBlock) -> None:
    """Make a block the identity: zero the output projections of its three branches."""
    for projection in (block.attn.proj, block.cross_attn.proj, block.mlp.point_conv.conv):
        for parameter in projection.parameters():
            nn.init.zeros_(parameter)


def _before(name: str, block: int) -> bool:
    """Return whether a parameter belongs to one of the first blocks, or to none."""
    parts = name.split(".")
    return parts[0] != "blocks" or int(parts[1]) < block
