"""Velocities with one more branch, in which chosen blocks attend to nothing (PAG).

In those blocks each image token attends to itself alone, so self-attention returns the token's own value.
Guidance leads away from what such a network sees. Up to the first chosen block the branch equals the one with
the prompt: the two are computed as one.
Source: perturbed-attention guidance (arXiv:2403.17377), whose attention map is the identity.
Shapes: B samples, C h w latents, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from sanakit.models.layers import LinearSelfAttention, Modulation, TextKeysValues, branches, few_samples
from sanakit.models.sana import Grid, Sana, SanaBlock, TextContext


@torch.no_grad()
def perturbed_velocity(
    transformer: Sana,
    blocks: Collection[int],
    latents: Tensor,
    t: float | Tensor,
    context: TextContext,
    prompts: TextContext,
    *,
    after_block: Callable[[nn.Module], object] | None = None,
) -> Tensor:
    """Return what `Sana.velocity` returns, then B velocities of the perturbed branch: n B + B, C h w.

    blocks: the perturbed ones, one or more. context: n prompts a sample, as there, the last B of them those
    in `prompts`. prompts: of the perturbed branch, one a sample. Raises SettingsError as that does.
    """
    count, grid = len(latents), (latents.shape[-2], latents.shape[-1])
    x, time, modulation = transformer.begin(latents, t, context, None)
    own_time, own_modulation = time[-count:], modulation[-count:]  # of the perturbed branch
    apart = None
    for i, block in enumerate(transformer.blocks):
        if i == min(blocks):
            apart = x[-count:].clone()
        x = block.sample(x, modulation, context.layers[i], grid)
        if apart is not None and i in blocks:
            _sample_perturbed_(block, apart, own_modulation, prompts.layers[i], grid)
        elif apart is not None:
            apart = block.sample(apart, own_modulation, prompts.layers[i], grid)
        if after_block is not None:
            after_block(block)
    assert apart is not None, "the blocks lie within the depth"
    return torch.cat([transformer.unembed(x, time, grid), transformer.unembed(apart, own_time, grid)])


def _sample_perturbed_(
    block: SanaBlock, x: Tensor, modulation: Tensor, prompts: list[TextKeysValues], grid: Grid
) -> None:
    """Do in place what `SanaBlock.sample` does, as if each image token attended to itself alone."""
    own, mlp = branches(block.scale_shift_table, modulation)
    _add_values_(block.attn, x, own)
    block.cross_attn.add_(x, prompts)
    block.mlp.add_(x, mlp, *grid)


def _add_values_(attention: LinearSelfAttention, x: Tensor, modulation: Modulation) -> None:
    """Add the branch to x (B N D) in place, as if each token attended to itself alone."""
    width = attention.proj.in_features
    for samples, own in few_samples(x, modulation, x.shape[1] * width):
        values = attention.qkv.modulated(samples, own, slice(2 * width, None))
        attention.proj.add_to(samples, values, own[2])
