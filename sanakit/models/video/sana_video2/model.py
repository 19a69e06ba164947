"""SANA-Video 2.0's diffusion transformer: a hybrid of linear and softmax attention, deeper and wider.

It takes what SANA-Video takes (`sana_video.py`): noisy latents of a clip, a time for the clip or for each
frame, and text features; and gives the velocity noise - clip of flow matching. Its blocks have gates and a
plain feed-forward (`blocks.py`), and see mixes of what earlier ones have added (`residuals.py`). Times are
cut to whole thousandths, as all published code does.

Ways through the weights, as SANA-Video's: `forward` for training; `prepare` and `velocity` for sampling.
There are no chunks: attention sees the whole clip.
Source: SANA-Video 2.0 (NVlabs/Sana, sana_video2.py).
Shapes: B batch, C latent channels, T frames and H W sides of the latents, D width, N = T*H*W tokens, L text
tokens, E text width. state_dict names equal the official .pth, less the stored positions and null caption.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import AfterBlock, ClipTransformer, WholeTimeEmbedding
from sanakit.models.video.sana_video2.blocks import Rotations, Video2Block
from sanakit.models.video.sana_video2.config import SanaVideo2Config
from sanakit.models.video.sana_video2.residuals import FINAL, DepthAttention, DepthSources
from sanakit.models.video.sana_video_blocks import ClipGrid


class SanaVideo2(ClipTransformer[SanaVideo2Config, Video2Block]):
    """The diffusion transformer of clips; see the module's text for the ways of calling it."""

    def __init__(self, config: SanaVideo2Config) -> None:
        super().__init__(config, [Video2Block(config, number) for number in range(config.depth)])
        self.t_embedder = WholeTimeEmbedding(config.width)
        self.attn_res = DepthAttention(config.width)

    def forward(self, latents: Tensor, t: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the velocity for training: differentiable, text padded.

        latents: B C T H W. t: B, or B T for a time of each frame; in [0, 1], 1 = pure noise. text: B L E.
        mask: B L, true where a token is real; None: all are.
        Returns B C T H W. Raises SizeError for latents that it cannot take, SettingsError for times that do
        not fit them.
        """
        x, time, modulation, grid, _ = self._start(latents, t, None)
        sources, turns = DepthSources(self.attn_res, x), self._both(latents, grid)
        caption = self.caption(text)
        for number, block in enumerate(self.blocks):
            block(sources, modulation, caption, mask, turns)
            if self.config.ends_group(number):
                sources.close()
        return self._unembed(sources.mixed(FINAL), time, grid)

    @torch.no_grad()
    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: AfterBlock | None = None,
    ) -> Tensor:
        """Return the velocity for sampling, without gradients.

        latents: B C T H W. t: one time for all (cheaper), B, or B T (or 1 T) for a time of each frame.
        context: from `prepare`, for B samples, or for n B: then the latents stand for n times as many, one
        after another, as guidance needs them. guidance: must be None. after_block: called with each block
        when it has run, to free its memory.
        Returns B (n B) C T H W. Raises SizeError for latents that it cannot take; SettingsError for times or
        a context of other sizes.
        """
        if guidance is not None:
            raise SettingsError("SANA-Video 2.0 takes no guidance scale as an input: leave `guidance` out.")
        x, time, modulation, grid = self._begin(latents, t, context, None)
        sources, turns = DepthSources(self.attn_res, x), self._both(latents, grid)
        for number, (block, prompts) in enumerate(zip(self.blocks, context.layers, strict=True)):
            block.sample(sources, modulation, prompts, turns)
            if self.config.ends_group(number):
                sources.close()
            if after_block is not None:
                after_block(block)
        return self._unembed(sources.mixed(FINAL), time, grid)

    def init_weights(self) -> None:
        """Draw the published initial weights: SANA-Video's, with queries over depth that average."""
        super().init_weights()
        self.attn_res.init_weights()

    def _both(self, latents: Tensor, grid: ClipGrid) -> Rotations:
        """Return the rotations for both kinds of attention."""
        softmax = self._rotation(
            latents, range(grid.frames), grid.height, grid.width, self.config.softmax_head_dim
        )
        return Rotations(grid.rotation.flatten(0, 1), softmax.flatten(0, 1))
