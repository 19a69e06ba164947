"""SANA's linear diffusion transformer (arXiv:2410.10629; SANA-1.5: 2501.18427; SANA-Sprint: 2503.09641).

It takes noisy latents, a time and text features and gives the velocity noise - image of flow matching.
Attention among image tokens is linear in their number; a convolution inside the feed-forward stands in for
positions.

Shapes: B batch, C latent channels, H W latent grid, N = H*W tokens, D width, L text tokens, E text width.
state_dict names equal the official .pth. Left out of it: the learned null caption, the stored position table
and Sprint's training head, which play no part in sampling.

Two ways through the same weights:
- `forward` takes padded text with a mask and is differentiable: training, parity.
- `prepare` once per prompt, then `velocity` once per step: sampling. Text is unpadded, its projection, keys
  and values are computed once, and a one-token prompt (the empty negative prompt) costs no attention at all.
  Exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Self, TypeGuard, cast

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.layers import (
    CrossAttention,
    Linear,
    LinearSelfAttention,
    MixFFN,
    PairMLP,
    RMSNorm,
    TextKeysValues,
    branches,
    grid_positions,
    sinusoid,
)
from sanakit.ops.linear import linear
from sanakit.ops.modulation import modulated_norm

TIME_CHANNELS = 256  # width of the sinusoid that embeds time and guidance

Grid = tuple[int, int]  # height and width in latents
Behind = Callable[[int, Tensor, Tensor], Tensor]  # a block's number, tokens behind it, modulation -> tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class SanaConfig:
    """Size and variant of a transformer. Raises SettingsError if the width is not a multiple of a head's."""

    depth: int
    width: int  # D
    cross_heads: int
    head_dim: int = 32  # linear attention uses width // head_dim heads
    text_width: int = 2304  # E, Gemma-2-2B
    latent_channels: int = 32  # C
    mlp_ratio: float = 2.5
    qk_norm: bool = False  # SANA-1.5 and Sprint: RMS norm of queries and keys over all heads together
    guidance_embed: bool = False  # Sprint: the guidance scale is an input
    guidance_scale_factor: float = 0.1
    time_scale: float = 1000.0  # what t in [0, 1] is multiplied by before its sinusoid; Sprint: 1
    position_interpolation: float | None = None  # 2K: 1.0, 4K: 2.0; None: no positions
    sample_size: int = 32  # latent side of the resolution it was trained for

    def __post_init__(self) -> None:
        for name, divisor in (("head_dim", self.head_dim), ("cross_heads", self.cross_heads)):
            if divisor < 1 or self.width < 1 or self.width % divisor:
                raise SettingsError(
                    f"SANA's width {self.width} is not a multiple of {name} {divisor}: change one of them."
                )


SANA_600M = SanaConfig(depth=28, width=1152, cross_heads=16)
SANA_1600M = SanaConfig(depth=20, width=2240, cross_heads=20)
SANA_1600M_2K = replace(SANA_1600M, position_interpolation=1.0, sample_size=64)
SANA_1600M_4K = replace(SANA_1600M, position_interpolation=2.0, sample_size=128)
SANA_1_5_1600M = replace(SANA_1600M, qk_norm=True)
SANA_1_5_4800M = replace(SANA_1_5_1600M, depth=60)
SANA_SPRINT_600M = replace(SANA_600M, qk_norm=True, guidance_embed=True, time_scale=1.0)
SANA_SPRINT_1600M = replace(SANA_1600M, qk_norm=True, guidance_embed=True, time_scale=1.0)


@dataclass(frozen=True, slots=True)
class TextContext:
    """The prompts of a batch as every layer needs them; made by `Sana.prepare`."""

    layers: list[list[TextKeysValues]]

    @property
    def batch(self) -> int:
        """The number of samples that the prompts cover."""
        return sum(prompt.count for prompt in self.layers[0])

    @classmethod
    def of(cls, layers: list[CrossAttention], captions: list[tuple[Tensor, int]], eps: float | None) -> Self:
        """Return what layers need of captions (1 L D), each with the number of samples it is for."""
        return cls([[layer.prepare(*caption, eps) for caption in captions] for layer in layers])

    @classmethod
    def join(cls, parts: Sequence[TextContext]) -> TextContext:
        """Return the context of samples one after another; parts: one prompt each, for one sample each.

        Neighbours that share a part (the very same object) attend as one.
        """
        runs = [list(run) for _, run in groupby(parts, key=id)]
        return cls(
            [
                [replace(run[0].layers[layer][0], count=len(run)) for run in runs]
                for layer in range(len(parts[0].layers))
            ]
        )


class ScalarEmbedding(nn.Module):
    """A scalar (time or guidance) -> B D: sinusoid, linear, SiLU, linear (`t_embedder`, `cfg_embedder`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(TIME_CHANNELS, width), nn.SiLU(), Linear(width, width))

    def forward(self, values: Tensor) -> Tensor:
        """B -> B D."""
        dtype = cast(Linear, self.mlp[0]).bias.dtype
        return self.mlp(sinusoid(values, TIME_CHANNELS).to(dtype))


class LatentEmbedder(nn.Module):
    """Latents -> tokens (`x_embedder`)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 1)

    def forward(self, latents: Tensor) -> Tensor:
        """B C H W -> B N D: the 1x1 convolution as a matrix product."""
        assert self.proj.bias is not None
        pixels = latents.flatten(2).transpose(1, 2).to(self.proj.bias.dtype)
        return linear(pixels, self.proj.weight.flatten(1), self.proj.bias)


class CaptionEmbedder(nn.Module):
    """Text features -> transformer width (`y_embedder`)."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.y_proj = PairMLP(text_width, width)


class SanaBlock(nn.Module):
    """Linear self-attention, cross-attention and Mix-FFN; time modulates the first and the last."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.width))
        nn.init.normal_(self.scale_shift_table, std=config.width**-0.5)
        self.attn = LinearSelfAttention(config.width, config.head_dim, config.qk_norm)
        self.cross_attn = CrossAttention(config.width, config.cross_heads, config.qk_norm)
        self.mlp = MixFFN(config.width, config.mlp_ratio)

    def forward(
        self, x: Tensor, modulation: Tensor, caption: Tensor, mask: Tensor | None, grid: Grid
    ) -> Tensor:
        """B N D -> B N D, for training. modulation: B 6D; caption: B L D; mask: B L, true where real."""
        (shift, scale, gate), (shift_mlp, scale_mlp, gate_mlp) = branches(self.scale_shift_table, modulation)
        x = torch.addcmul(x, self.attn(modulated_norm(x, scale, shift)), gate)
        x = x + self.cross_attn(x, *self.cross_attn.keys_values(caption), mask)
        return torch.addcmul(x, self.mlp(modulated_norm(x, scale_mlp, shift_mlp), *grid), gate_mlp)

    def sample(self, x: Tensor, modulation: Tensor, prompts: list[TextKeysValues], grid: Grid) -> Tensor:
        """Return `forward` of prepared prompts, without gradients, in place. modulation: 1 or B, 6D.

        With several prompts per sample, x is repeated here; up to this point they share it. The
        modulation of the first of them serves before that.
        """
        own, mlp = branches(self.scale_shift_table, modulation)
        self.attn.add_(x, own)
        if (repeats := sum(prompt.count for prompt in prompts) // len(x)) > 1:
            x = x.repeat(repeats, 1, 1)
        self.cross_attn.add_(x, prompts)
        self.mlp.add_(x, mlp, *grid)
        return x


class FinalLayer(nn.Module):
    """Modulated norm and projection back to latent channels (`final_layer`)."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.empty(2, width))
        nn.init.normal_(self.scale_shift_table, std=width**-0.5)
        self.linear = Linear(width, outputs)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: B N D; time: B or 1, D. Returns B N C."""
        shift, scale = (self.scale_shift_table + time[:, None]).unsqueeze(2).unbind(1)
        return self.linear(modulated_norm(x, scale, shift))


class Embedders(nn.Module):
    """The layers before the blocks: latents, time, guidance and caption, each to the width of the tokens."""

    def __init__(self, config: SanaConfig, x_embedder: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.x_embedder = x_embedder or LatentEmbedder(config.latent_channels, width)
        self.t_embedder = ScalarEmbedding(width)
        if config.guidance_embed:
            self.cfg_embedder = ScalarEmbedding(width)
        self.t_block = nn.Sequential(nn.SiLU(), Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(config.text_width, width)
        self.attention_y_norm = RMSNorm(width)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in; its big weights may be stored in another one (`layouts/fill.py`)."""
        return self.attention_y_norm.weight.dtype

    def tokens(self, latents: Tensor) -> Tensor:
        """Return the tokens of latents (B C H W), B N D, with their positions if the model has any."""
        x = self.x_embedder(latents)
        if self.config.position_interpolation is None:
            return x
        height, width = latents.shape[-2:]
        places = grid_positions(
            height,
            width,
            self.config.width,
            base_size=self.config.sample_size,
            interpolation=self.config.position_interpolation,
            device=str(latents.device) if latents.is_cuda else "cpu",
        )
        return x + places.to(x)

    def embed(self, latents: Tensor, t: Tensor, guidance: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens B N D, time B D and its modulation B 6D (B = 1 when t holds one time)."""
        time = self.t_embedder(t * self.config.time_scale)
        if self.config.guidance_embed:
            if guidance is None:
                raise SettingsError("This model embeds its guidance scale: pass `guidance`, 4.5 is usual.")
            time = time + self.cfg_embedder(guidance * self.config.guidance_scale_factor)
        return self.tokens(latents), time, self.t_block(time)

    def caption(self, text: Tensor) -> Tensor:
        """B L E -> B L D."""
        return self.attention_y_norm(self.y_embedder.y_proj(text.to(self.dtype)))


class Sana(Embedders):
    """The diffusion transformer; see the module's text for its two ways of being called."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__(config)
        blocks = nn.ModuleList(SanaBlock(config) for _ in range(config.depth))
        self.blocks = cast(Sequence[SanaBlock], blocks)  # tells type checkers what the list holds
        self.final_layer = FinalLayer(config.width, config.latent_channels)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
        *,
        tokens: list[Tensor] | None = None,
        behind: Behind | None = None,
    ) -> Tensor:
        """Return the velocity for training: differentiable, text padded.

        latents: B C H W. t: B, in [0, 1], 1 = pure noise. text: B L E. mask: B L, true where a token is real;
        None: all are. guidance: B, the scale itself (4.5, not 0.45), Sprint only. tokens: gets those behind
        each block, B N D. behind: as for `velocity`, out of place. Returns B C H W. Raises SettingsError if a
        Sprint model gets no guidance.
        """
        x, time, modulation = self.embed(latents, t, guidance)
        grid = (latents.shape[-2], latents.shape[-1])
        caption = self.caption(text)
        for number, block in enumerate(self.blocks):
            x = block(x, modulation, caption, mask, grid)
            if behind is not None:
                x = behind(number, x, modulation)
            if tokens is not None:
                tokens.append(x)
        return self.unembed(x, time, grid)

    @torch.no_grad()
    def prepare(
        self, features: Sequence[Tensor], counts: Sequence[int] | None = None, eps: float | None = None
    ) -> TextContext:
        """Project the prompts and compute every layer's keys and values, once for all steps.

        features: one tensor of L_i E per prompt, unpadded, in the batch's order. counts: how many consecutive
        samples each prompt stands for (default: one). eps: as in `TextKeysValues`.
        """
        counts = [1] * len(features) if counts is None else counts
        captions = [(self.caption(text[None]), n) for text, n in zip(features, counts, strict=True)]
        layers = [block.cross_attn for block in self.blocks]
        return TextContext.of(layers, captions, eps if self.config.qk_norm else None)

    @torch.no_grad()
    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
        behind: Behind | None = None,
    ) -> Tensor:
        """Return the velocity for sampling, without gradients.

        latents: B C H W. t: one time for the whole batch (cheaper: the modulation is computed once and fused
        into the norms) or B times. context: from `prepare`, for B samples, or for n B: then the latents stand
        for n times as many, one after another, as guidance needs them, and what they share is computed once.
        guidance: Sprint only, the scale itself, one for the whole batch or B of them. after_block: called
        with each block when it has run, to free its memory. behind: returns the tokens that go on from those
        behind each block, as a ControlNet changes them.
        Returns B (n B) C H W. Raises SettingsError if the context is for another number of samples, or if a
        Sprint model gets no guidance.
        """
        x, time, modulation = self.begin(latents, t, context, guidance)
        grid = (latents.shape[-2], latents.shape[-1])
        for number, (block, prompts) in enumerate(zip(self.blocks, context.layers, strict=True)):
            x = block.sample(x, modulation, prompts, grid)
            if behind is not None:
                x = behind(number, x, modulation)
            if after_block is not None:
                after_block(block)
        return self.unembed(x, time, grid)

    def begin(
        self, latents: Tensor, t: float | Tensor, context: TextContext, guidance: float | Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Check the arguments of `velocity` and embed them.

        Returns tokens (B N D, which stand for n B), the time of each sample (n B, D) and its modulation (n B,
        6D); these two have one row where there is one time.
        """
        if context.batch % len(latents):
            raise SettingsError(
                f"{len(latents)} latents came with prompts for {context.batch}: prepare one prompt per "
                "sample, or pass `counts`."
            )
        times = torch.as_tensor(t, device=latents.device, dtype=torch.float32).reshape(-1)
        scales = None
        if guidance is not None:
            scales = torch.as_tensor(guidance, dtype=torch.float32).to(times.device).reshape(-1)
        for name, values in (("times", times), ("guidance scales", scales)):
            if values is not None and len(values) not in (1, len(latents)):
                raise SettingsError(
                    f"{len(latents)} latents came with {len(values)} {name}: pass 1, or 1 per sample."
                )
        x, time, modulation = self.embed(latents, times, scales)
        if len(time) > 1:
            repeats = context.batch // len(latents)
            time, modulation = time.repeat(repeats, 1), modulation.repeat(repeats, 1)
        return x, time, modulation

    def init_weights(self) -> None:
        """Draw the published initial weights: Xavier, small embedders, silent cross-attention and output."""
        for module in self.modules():
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedder in (self.t_embedder, self.t_block, self.y_embedder):
            for module in embedder.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
        for block in self.blocks:
            nn.init.zeros_(block.cross_attn.proj.weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def unembed(self, x: Tensor, time: Tensor, grid: Grid) -> Tensor:
        """B N D -> B C H W."""
        return self.final_layer(x, time).transpose(1, 2).unflatten(-1, grid)


def has_blocks(transformer: object) -> TypeGuard[Sana]:
    """Return whether a transformer computes by blocks that can be looked into; a graph does not."""
    return isinstance(transformer, Sana) and all(isinstance(b, SanaBlock) for b in transformer.blocks)
