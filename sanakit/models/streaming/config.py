"""Sizes and variants of SANA-Streaming."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import VideoConfig
from sanakit.models.video.sana_video_blocks import spread_evenly

# How much of a clip the weights were trained to see: all of it, or chunks that come one after another.
EditVariant = Literal["bidirectional", "streaming"]
EDIT_VARIANTS: tuple[EditVariant, ...] = get_args(EditVariant)


@dataclass(frozen=True, kw_only=True, slots=True)
class SanaStreamingConfig(VideoConfig):
    """Size and variant of a transformer that edits clips. Raises SettingsError for sizes that do not fit."""

    latent_channels: int = 128  # C, of the LTX-2 autoencoder, of noisy latents and as many of the source
    sample_size: int = 22
    softmax_share: float = 0.25  # of the blocks, spread evenly; 0: none has softmax attention
    variant: EditVariant = "streaming"
    softmax_taps: int = 3  # streaming: of the weights of softmax attention's queries and keys over time
    sink_chunks: int = 1  # streaming: the first chunks, which softmax attention never forgets
    recent_chunks: int = 1  # streaming: the last chunks before the present, which it sees as well

    def __post_init__(self) -> None:
        VideoConfig.__post_init__(self)
        if self.patch != 1 or not self.qk_norm:
            raise SettingsError("SANA-Streaming has a token for each latent, and norms of queries and keys.")
        if self.variant not in EDIT_VARIANTS:
            raise SettingsError(
                f"SANA-Streaming's variant is {self.variant!r}; use {' or '.join(EDIT_VARIANTS)}."
            )
        if not 0 <= self.softmax_share <= 1 or self.softmax_taps < 1 or self.softmax_taps % 2 == 0:
            raise SettingsError(
                "SANA-Streaming's softmax_share lies from 0 to 1, and its softmax_taps are an odd number."
            )
        if min(self.sink_chunks, self.recent_chunks) < 0:
            raise SettingsError("SANA-Streaming's sink_chunks and recent_chunks start from 0.")

    @property
    def softmax_blocks(self) -> tuple[int, ...]:
        """The numbers of the blocks with softmax attention, from 0."""
        return spread_evenly(self.depth, self.softmax_share) if self.softmax_share else ()


SANA_STREAMING_2B = SanaStreamingConfig(depth=20, width=2240, cross_heads=20)
SANA_STREAMING_2B_BIDIRECTIONAL = replace(SANA_STREAMING_2B, variant="bidirectional")
