"""SANA-Video's linear diffusion transformer (arXiv:2509.24695), and LongSANA's way through the same weights.

It takes noisy latents of a clip, a time for the clip or for each frame, and text features, and gives the
velocity noise - clip of flow matching. Embedders, cross-attention, modulation and final layer are SANA's
(`models/sana.py`). New are patches, positions in self-attention and a convolution over time
(`sana_video_blocks.py`).

Shapes: B batch, C latent channels, T frames and H W sides of the latents, p side of a patch, D width,
S = H*W/p^2 tokens of a frame, N = T*S tokens, L text tokens, E text width.
state_dict names equal the official .pth, less the learned null caption.

Ways through the weights, as SANA's: `forward` for training, with padded text; `prepare` once per prompt and
`velocity` once per step for sampling. `extend` is the third, for clips in chunks (LongSANA): it gives the
`ClipState` that `velocity` of the next chunk reads and never writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError, SizeError
from sanakit.models.layers import CrossAttention
from sanakit.models.sana import Embedders, FinalLayer, SanaConfig, ScalarEmbedding, TextContext
from sanakit.models.video.sana_video_blocks import BlockState, ClipBlock, ClipFFN, ClipGrid
from sanakit.ops.linear import linear
from sanakit.ops.rotary_linear_attention import RotarySums, rotations

AfterBlock = Callable[[nn.Module], object]
# A time of float32 that is a rounding error below a whole thousandth is that one.
_ROUNDING = 2.0**-13


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoConfig(SanaConfig):
    """Size of a transformer of clips. Raises SettingsError for sizes that do not go together."""

    head_dim: int = 112
    latent_channels: int = 16  # C
    mlp_ratio: float = 3.0
    qk_norm: bool = True
    sample_size: int = 30  # 30: trained at 480p, 22: at 720p
    patch: int = 1  # p: a token stands for p x p latents of one frame
    max_positions: int = 1024  # tokens along one side, and frames of a clip

    def __post_init__(self) -> None:
        SanaConfig.__post_init__(self)
        if self.head_dim % 2 or self.head_dim < 6:
            raise SettingsError(
                f"SANA's head_dim is {self.head_dim}: for clips it must be even, and at least 6 for three "
                "axes."
            )
        if self.patch < 1 or self.max_positions < 1:
            raise SettingsError("SANA's patch and max_positions must be at least 1 for clips.")
        if self.guidance_embed or self.position_interpolation is not None or self.time_scale != 1000.0:
            raise SettingsError(
                "SANA's models of clips embed no guidance scale, add no positions to their tokens and scale "
                "times by 1000: leave all three as they are."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SanaVideoConfig(VideoConfig):
    """Size and variant of a video transformer. Raises SettingsError for sizes that do not go together."""

    causal: bool = False  # LongSANA: trained on chunks that see earlier ones alone


SANA_VIDEO_2B_480P = SanaVideoConfig(depth=20, width=2240, cross_heads=20, patch=2)
SANA_VIDEO_2B_720P = replace(SANA_VIDEO_2B_480P, patch=1, latent_channels=128, sample_size=22)
LONG_SANA_2B_480P = replace(SANA_VIDEO_2B_480P, causal=True)
# Of the official registry, unreleased. It leaves the width of linear attention's heads open: as in the
# released size, that of cross-attention's.
SANA_VIDEO_600M = SanaVideoConfig(depth=28, width=1152, cross_heads=16, head_dim=72, patch=2)
SANA_VIDEO_4000M = SanaVideoConfig(depth=28, width=2560, cross_heads=20, head_dim=128, patch=2)


@dataclass(frozen=True, slots=True)
class ClipState:
    """The past of a clip in chunks, for every block: as large after the first chunk as after a thousand."""

    frames: int  # so far
    height: int  # of a frame, in tokens
    width: int
    blocks: list[BlockState]

    @property
    def batch(self) -> int:
        """The number of clips that it is of."""
        return len(self.blocks[0].last)

    def second(self) -> ClipState:
        """Return the past of the second of two clips, the one with the prompt."""
        blocks = [
            BlockState(RotarySums(*(part[1:] for part in block.sums)), block.last[1:])
            for block in self.blocks
        ]
        return replace(self, blocks=blocks)


class PatchEmbedder(nn.Module):
    """Latents -> tokens (`x_embedder`)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, width, (1, patch, patch), stride=(1, patch, patch))

    def forward(self, latents: Tensor) -> Tensor:
        """B C T H W -> B N D: the convolution as a matrix product over c, row, column."""
        assert self.proj.bias is not None
        patches = latents.unflatten(-1, (-1, self.patch)).unflatten(-3, (-1, self.patch))  # B C T h p w p
        pixels = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        return linear(pixels.to(self.proj.bias.dtype), self.proj.weight.flatten(1), self.proj.bias)


class WholeTimeEmbedding(ScalarEmbedding):
    """An embedding of times that are cut to whole numbers (`t_embedder`)."""

    def forward(self, values: Tensor) -> Tensor:
        """B -> B D."""
        return super().forward((values + _ROUNDING).floor())


class ClipPast(Protocol):
    """The state of the chunks before, as far as it does not depend on the kind of blocks."""

    @property
    def frames(self) -> int:
        """The number of frames so far."""
        ...

    @property
    def height(self) -> int:
        """The height of a frame, in tokens."""
        ...

    @property
    def width(self) -> int:
        """The width of a frame, in tokens."""
        ...

    @property
    def batch(self) -> int:
        """The number of clips that it is of."""
        ...

    def second(self) -> Self:
        """Return the past of the second of two clips."""
        ...


class TextClipBlock(Protocol):
    """A block of a transformer of clips, as far as preparing prompts depends on it."""

    cross_attn: CrossAttention


Config = TypeVar("Config", bound=VideoConfig)
Block = TypeVar("Block", bound=TextClipBlock)


class ClipTransformer(Embedders, Generic[Config, Block]):
    """The shared part of transformers of clips: embedders, checks, the grid, the way back to latents."""

    config: Config

    def __init__(self, config: Config, blocks: Sequence[Block]) -> None:
        super().__init__(config, PatchEmbedder(config.latent_channels, config.width, config.patch))
        self.config = config
        listed = nn.ModuleList(cast(Sequence[nn.Module], blocks))
        self.blocks = cast(Sequence[Block], listed)  # tells type checkers what the list holds
        self.final_layer = FinalLayer(config.width, config.latent_channels * config.patch**2)

    @property
    def input_channels(self) -> int:
        """Channels of what is embedded: C, and those of latents beside the noisy ones."""
        return self.config.latent_channels

    @torch.no_grad()
    def prepare(
        self, features: Sequence[Tensor], counts: Sequence[int] | None = None, eps: float | None = None
    ) -> TextContext:
        """Project the prompts and compute every layer's keys and values, once for all steps and chunks.

        features: one tensor of L_i E per prompt, unpadded, in the batch's order. counts: how many consecutive
        samples each prompt stands for (default: one). eps: as in `TextKeysValues`.
        """
        counts = [1] * len(features) if counts is None else counts
        captions = [(self.caption(text[None]), n) for text, n in zip(features, counts, strict=True)]
        layers = [block.cross_attn for block in self.blocks]
        return TextContext.of(layers, captions, eps if self.config.qk_norm else None)

    def init_weights(self) -> None:
        """Draw the published initial weights: Xavier, small embedders, no mixing over time yet."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedder in (self.t_embedder, self.t_block, self.y_embedder):
            for module in embedder.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
        nn.init.constant_(self.attention_y_norm.weight, 0.01)
        for module in self.modules():
            if isinstance(module, ClipFFN):
                nn.init.zeros_(module.t_conv.weight)

    def _start(
        self, latents: Tensor, t: Tensor, chunks: Sequence[int] | None
    ) -> tuple[Tensor, Tensor, Tensor, ClipGrid, list[int]]:
        """Check the arguments of `forward` and embed them: all as `_begin` returns it, and the chunks."""
        grid = self._grid(latents, 0)
        if t.shape not in ((len(latents),), (len(latents), grid.frames)):
            raise SettingsError(
                f"t has the shape {tuple(t.shape)}: pass one time for each of {len(latents)} clips, or for "
                f"each of their {grid.frames} frames."
            )
        return *self.embed(latents, t.flatten(), None), grid, self._chunks(chunks, grid.frames)

    @staticmethod
    def _chunks(chunks: Sequence[int] | None, frames: int) -> list[int]:
        """Return the sizes of chunks that make up the frames; None: one. Raises SettingsError."""
        chunks = [frames] if chunks is None else list(chunks)
        if sum(chunks) != frames or min(chunks) < 1:
            raise SettingsError(
                f"chunks are {chunks}, but the clip has {frames} frames: pass sizes from 1 on, {frames} in "
                "all."
            )
        return chunks

    def _begin(
        self, latents: Tensor, t: float | Tensor, context: TextContext, state: ClipPast | None
    ) -> tuple[Tensor, Tensor, Tensor, ClipGrid]:
        """Check the arguments of `velocity` and embed them.

        Returns tokens (B N D, which stand for n B), the time of each frame (n B T, D), its modulation (n B T,
        6D) and the grid. The two have one row where there is one time. With a state the tokens are of n B.
        """
        grid, batch = self._grid(latents, state.frames if state else 0), len(latents)
        if context.batch % batch:
            raise SettingsError(
                f"{batch} latents came with prompts for {context.batch}: prepare one prompt per sample, or "
                "pass `counts`."
            )
        repeats = context.batch // batch
        if state is not None:
            came = (context.batch, grid.height, grid.width)
            if came != (state.batch, state.height, state.width):
                raise SettingsError(
                    f"The chunk is of {came[0]} clips, {came[1]}x{came[2]} tokens a frame; its state of "
                    f"{state.batch}, {state.height}x{state.width}: all chunks of a clip have one size."
                )
        times = torch.as_tensor(t, device=latents.device, dtype=torch.float32)
        each = times.ndim == 2
        if times.numel() != 1 and times.shape not in ((batch,), (batch, grid.frames), (1, grid.frames)):
            raise SettingsError(
                f"t has the shape {tuple(times.shape)}: pass one time, one for each of {batch} clips, or for "
                f"each of their {grid.frames} frames."
            )
        rows = times.expand(batch, grid.frames) if each and times.numel() > 1 else times
        x, time, modulation = self.embed(latents, rows.flatten(), None)
        if len(time) > 1:
            spread = 1 if each else grid.frames
            time, modulation = (
                part.repeat_interleave(spread, dim=0).repeat(repeats, 1) for part in (time, modulation)
            )
        return x if state is None else x.repeat(repeats, 1, 1), time, modulation, grid

    def _grid(self, latents: Tensor, first: int) -> ClipGrid:
        """Return the grid of latents whose first frame has this number in its clip. Raises SizeError."""
        patch, most = self.config.patch, self.config.max_positions
        channels = self.input_channels
        if latents.ndim != 5 or latents.shape[1] != channels or 0 in latents.shape:
            raise SizeError(
                f"Latents of the shape {tuple(latents.shape)} are not a clip's: B, {channels} channels, "
                "frames, height and width."
            )
        frames, height, width = latents.shape[2:]
        if height % patch or width % patch:
            raise SizeError(
                f"Latents of {height}x{width} are not a multiple of the patch of {patch}x{patch}: a row or "
                "column would be lost. Use even sides."
                if patch == 2
                else f"Latents of {height}x{width} are not a multiple of the patch of {patch}x{patch}."
            )
        rows, columns = height // patch, width // patch
        if max(first + frames, rows, columns) > most:
            raise SizeError(
                f"The clip reaches {first + frames} frames of {rows}x{columns} tokens, but this model knows "
                f"{most} positions on each axis: make it shorter or smaller."
            )
        numbers = range(first, first + frames)
        return ClipGrid(rows, columns, self._rotation(latents, numbers, rows, columns, self.config.head_dim))

    @staticmethod
    def _rotation(latents: Tensor, frames: range, rows: int, columns: int, head_dim: int) -> Tensor:
        """Return the rotation of each token of so wide heads, T S d/2, in the precision of latents."""
        turns = rotations(frames, rows, columns, head_dim)
        wide = latents.dtype == torch.float64
        return (turns if wide else turns.to(torch.complex64)).to(latents.device)

    def _unembed(self, x: Tensor, time: Tensor, grid: ClipGrid) -> Tensor:
        """B N D -> B C T H W. time: a row for all, for each clip or for each frame, D."""
        patch, batch = self.config.patch, len(x)
        rows = max(len(time), batch)
        y = self.final_layer(x.view(rows, -1, x.shape[-1]), time)
        y = y.view(batch, grid.frames, grid.height, grid.width, patch, patch, -1)
        return y.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


class SanaVideo(ClipTransformer[SanaVideoConfig, ClipBlock]):
    """The diffusion transformer of clips; see the module's text for the ways of calling it."""

    def __init__(self, config: SanaVideoConfig) -> None:
        super().__init__(config, [ClipBlock(config) for _ in range(config.depth)])

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        *,
        chunks: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the velocity for training: differentiable, text padded.

        latents: B C T H W. t: B, or B T for a time of each frame; in [0, 1], 1 = pure noise. text: B L E.
        mask: B L, true where a token is real; None: all are. chunks: how many frames each chunk has, T in
        all, for block-causal attention; None: one chunk, in which all frames see each other.
        Returns B C T H W. Raises SizeError for latents that it cannot take, SettingsError for times or chunks
        that do not fit them.
        """
        x, time, modulation, grid, chunks = self._start(latents, t, chunks)
        caption = self.caption(text)
        for block in self.blocks:
            x = block(x, modulation, caption, mask, grid, chunks)
        return self._unembed(x, time, grid)

    @torch.no_grad()
    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: AfterBlock | None = None,
        state: ClipState | None = None,
    ) -> Tensor:
        """Return the velocity for sampling, without gradients.

        latents: B C T H W, a clip or its next chunk. t: one time for all (cheaper), B, or B T (or 1 T) for a
        time of each frame. context: from `prepare`, for B samples, or for n B: then the latents stand for n
        times as many, one after another, as guidance needs them. guidance: must be None. after_block: called
        with each block when it has run, to free its memory. state: of the chunks before, for n B samples; it
        is read, not changed.
        Returns B (n B) C T H W. Raises SizeError for latents that it cannot take; SettingsError for times, a
        context or a state of other sizes.
        """
        if guidance is not None:
            raise SettingsError("SANA-Video takes no guidance scale as an input: leave `guidance` out.")
        x, time, modulation, grid = self._begin(latents, t, context, state)
        for number, (block, prompts) in enumerate(zip(self.blocks, context.layers, strict=True)):
            x = block.sample(x, modulation, prompts, grid, state.blocks[number] if state else None)
            if after_block is not None:
                after_block(block)
        return self._unembed(x, time, grid)

    @torch.no_grad()
    def extend(
        self,
        state: ClipState | None,
        latents: Tensor,
        context: TextContext,
        t: float | Tensor = 0.0,
        *,
        after_block: AfterBlock | None = None,
    ) -> ClipState:
        """Return the state with one more chunk, of finished latents; the given one stays as it is.

        state: of the chunks before; None: there are none. All else as for `velocity`.
        """
        x, _, modulation, grid = self._begin(latents, t, context, state)
        found: list[BlockState] = []
        for number, (block, prompts) in enumerate(zip(self.blocks, context.layers, strict=True)):
            x, own = block.extend(x, modulation, prompts, grid, state.blocks[number] if state else None)
            found.append(own)
            if after_block is not None:
                after_block(block)
        return ClipState((state.frames if state else 0) + grid.frames, grid.height, grid.width, found)
