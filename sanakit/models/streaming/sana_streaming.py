"""SANA-Streaming's transformer: it edits a clip by a prompt, chunk by chunk (SanaMSVideoV2V_2000M_P1_D20).

It takes noisy latents and, beside them as further channels, the latents of the source clip at the same
frames; a time for the clip or for each frame; and text features. It gives the velocity noise - clip of flow
matching, of the edited clip. Blocks are SANA-WM's without cameras (`models/world/blocks.py`), with attention
of their own (`attention.py`). Times are cut to whole thousandths, as all published code does.

Ways through the weights, as SANA-Video's: `forward` for training; `prepare` and `velocity` for sampling;
`extend` for clips in chunks, with weights that stream. States are values: a kept one is a snapshot to go
back to.
Source: NVlabs/Sana's V2V models.
Shapes: B batch, C latent channels, T frames and H W sides of the latents, D width, N = T*H*W tokens, L text
tokens, E text width. state_dict names equal the official files, less the stored positions and null caption.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sanakit.errors import SettingsError, SizeError
from sanakit.models.sana import TextContext
from sanakit.models.streaming.attention import EditAttention, EditDeltaAttention, EditSoftmaxAttention
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.video.sana_video import AfterBlock, ClipTransformer, PatchEmbedder, WholeTimeEmbedding
from sanakit.models.video.sana_video_blocks import ClipGrid
from sanakit.models.world.attention import WorldView
from sanakit.models.world.blocks import ChunkState, FrameBlock, WorldBlockState, run_blocks
from sanakit.models.world.config import check_chunked, check_streams


class SanaStreaming(ClipTransformer[SanaStreamingConfig, FrameBlock]):
    """The diffusion transformer of edited clips; see the module's text for the ways of calling it."""

    def __init__(self, config: SanaStreamingConfig) -> None:
        softmax = config.softmax_blocks
        kinds = (
            EditSoftmaxAttention if number in softmax else EditDeltaAttention
            for number in range(config.depth)
        )
        super().__init__(config, [FrameBlock(config, kind(config)) for kind in kinds])
        self.t_embedder = WholeTimeEmbedding(config.width)
        self.x_embedder = PatchEmbedder(self.input_channels, config.width, 1)

    @property
    def input_channels(self) -> int:
        """2 C: noisy latents, then those of the source."""
        return 2 * self.config.latent_channels

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        *,
        source: Tensor,
        chunks: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the velocity for training: differentiable, text padded.

        latents: B C T H W. t: B, or B T for a time of each frame; in [0, 1], 1 = pure noise. text: B L E.
        mask: B L, true where a token is real; None: all are. source: B C T H W, or 1 C T H W for all.
        chunks: how many frames each chunk has, T in all; None: one chunk, in which all frames see each other.
        Returns B C T H W. Raises SizeError for latents that it cannot take, SettingsError for times or chunks
        that do not fit them.
        """
        x, time, modulation, grid, chunks = self._start(self._beside(latents, source), t, chunks)
        check_chunked(self.config.variant, len(chunks), goes_on=False)
        view, caption = WorldView(grid, chunks), self.caption(text)
        for block in self.blocks:
            x = block(x, modulation, caption, mask, view, None)
        return self._unembed(x, time, grid)

    @torch.no_grad()
    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        source: Tensor,
        after_block: AfterBlock | None = None,
        state: ChunkState | None = None,
        chunks: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the velocity for sampling, without gradients.

        latents: B C T H W, a clip or its next chunk. t: one time for all (cheaper), B, or B T (or 1 T) for a
        time of each frame. context: from `prepare`, for B samples, or for n B: then the latents stand for n
        times as many, one after another, as guidance needs them. guidance: must be None. source, chunks: as
        for `forward`; with a state there is one chunk. after_block: called with each block when it has run,
        to free its memory. state: of the chunks before, for n B samples; it is read, not changed.
        Returns B (n B) C T H W. Raises SizeError for latents that it cannot take; SettingsError for times, a
        context, chunks or a state of other sizes.
        """
        if guidance is not None:
            raise SettingsError("SANA-Streaming takes no guidance scale as an input: leave `guidance` out.")
        x, time, grid = self._run(latents, t, context, source, state, chunks, after_block, None)
        return self._unembed(x, time, grid)

    @torch.no_grad()
    def extend(
        self,
        state: ChunkState | None,
        latents: Tensor,
        context: TextContext,
        t: float | Tensor = 0.0,
        *,
        source: Tensor,
        after_block: AfterBlock | None = None,
    ) -> ChunkState:
        """Return the state with one more chunk, of finished latents; the given one stays as it is.

        state: of the chunks before; None: there are none. All else as for `velocity`. Raises SettingsError
        for weights that do not stream, too.
        """
        check_streams(self.config.variant)
        found: list[WorldBlockState] = []
        _, _, grid = self._run(latents, t, context, source, state, None, after_block, found)
        return ChunkState((state.frames if state else 0) + grid.frames, grid.height, grid.width, found)

    def init_weights(self) -> None:
        """Draw the published initial weights: SANA-Video's, with gates that do next to nothing."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, EditAttention):
                module.init_gates()

    def _run(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        source: Tensor,
        state: ChunkState | None,
        chunks: Sequence[int] | None,
        after_block: AfterBlock | None,
        found: list[WorldBlockState] | None,
    ) -> tuple[Tensor, Tensor, ClipGrid]:
        """Run all blocks; return tokens, times and grid. found: gets the blocks' states."""
        x, time, modulation, grid = self._begin(self._beside(latents, source), t, context, state)
        if state is not None:
            check_streams(self.config.variant)
        chunks = self._chunks(chunks, grid.frames)
        check_chunked(self.config.variant, len(chunks), state is not None)
        view = WorldView(grid, chunks)
        x = run_blocks(self.blocks, x, modulation, context, view, None, state, after_block, found)
        return x, time, grid

    def _beside(self, latents: Tensor, source: Tensor) -> Tensor:
        """Return noisy latents with those of the source behind them, B 2C T H W. Raises SizeError."""
        if latents.ndim != 5 or latents.shape[1] != self.config.latent_channels:
            raise SizeError(
                f"Latents of the shape {tuple(latents.shape)} are not a clip's: B, "
                f"{self.config.latent_channels} channels, frames, height and width."
            )
        if source.ndim != 5 or source.shape[1:] != latents.shape[1:] or len(source) not in (1, len(latents)):
            raise SizeError(
                f"The source has latents of the shape {tuple(source.shape)}, but the clip "
                f"{tuple(latents.shape)}: pass those of the same frames, for each clip or one for all."
            )
        return torch.cat([latents, source.to(latents).expand_as(latents)], dim=1)
