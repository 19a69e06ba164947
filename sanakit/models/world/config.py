"""Sizes and variants of SANA-WM.

Three kinds of weights are published for one size: what they were trained to see of a clip is not in their
tensors, nor in the class of diffusers, which knows the first kind alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import VideoConfig

# How much of a clip the weights were trained to see:
# - bidirectional: all of it; there are no chunks.
# - chunk_causal: delta attention sees earlier chunks and its own, softmax attention all.
# - streaming: as that, but softmax attention sees its own chunk, the first ones and the last ones.
Variant = Literal["bidirectional", "chunk_causal", "streaming"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)


@dataclass(frozen=True, kw_only=True, slots=True)
class SanaWMConfig(VideoConfig):
    """Size and variant of a world model. Raises SettingsError for sizes that do not go together."""

    latent_channels: int = 128  # C, of the LTX-2 autoencoder
    sample_size: int = 22
    softmax_every: int = 4  # every so many blocks one has softmax attention; 0: none has
    taps: int = 4  # of the convolution of keys over time
    plucker_channels: int = 48  # 6 for each frame of pixels that a frame of latents stands for
    plucker_blocks: int | None = None  # the first so many add Plücker coordinates; None: all
    variant: Variant = "bidirectional"
    sink_chunks: int = 1  # streaming: the first chunks, which softmax attention never forgets
    recent_chunks: int = 1  # streaming: the last chunks before the present, which it sees as well
    capped: bool = True  # what rays lengthen is cut back, see `rays.py`
    rounded: bool = True  # softmax attention takes its inputs in bfloat16, as in training

    def __post_init__(self) -> None:
        VideoConfig.__post_init__(self)
        if self.head_dim % 8:
            raise SettingsError(
                f"SANA-WM's head_dim is {self.head_dim}: it must be a multiple of 8, half of it points of "
                "four coordinates."
            )
        if self.patch != 1 or not self.qk_norm:
            raise SettingsError("SANA-WM has a token for each latent, and norms of queries and keys.")
        if self.taps < 1 or self.plucker_channels < 1 or self.plucker_channels % 6:
            raise SettingsError("SANA-WM's taps start from 1; its plucker_channels are a multiple of 6.")
        if self.variant not in VARIANTS:
            raise SettingsError(f"SANA-WM's variant is {self.variant!r}; use {', '.join(VARIANTS)}.")
        counts = (self.softmax_every, self.plucker_blocks or 0, self.sink_chunks, self.recent_chunks)
        if min(counts) < 0:
            raise SettingsError(
                "SANA-WM's softmax_every, plucker_blocks, sink_chunks and recent_chunks start from 0."
            )

    @property
    def causal(self) -> bool:
        """Whether it draws chunk after chunk, with a state of the past."""
        return self.variant == "streaming"

    def is_softmax(self, block: int) -> bool:
        """Return whether a block, from 0 on, has softmax attention."""
        return self.softmax_every > 0 and (block + 1) % self.softmax_every == 0

    def has_plucker(self, block: int) -> bool:
        """Return whether a block, from 0 on, adds Plücker coordinates."""
        return self.plucker_blocks is None or block < self.plucker_blocks


SANA_WM_1600M = SanaWMConfig(depth=20, width=2240, cross_heads=20)
SANA_WM_1600M_CHUNK_CAUSAL = replace(SANA_WM_1600M, variant="chunk_causal")
SANA_WM_1600M_STREAMING = replace(SANA_WM_1600M, variant="streaming")


def check_chunked(variant: Variant, count: int, goes_on: bool) -> None:
    """Raise SettingsError for so many chunks that such weights do not see. goes_on: behind a state."""
    if count > 1 and variant == "bidirectional":
        raise SettingsError(
            "These weights see whole clips: leave `chunks` out, or load weights for chunks or streaming."
        )
    if count > 1 and goes_on:
        raise SettingsError("With a state there is one chunk at a time: leave `chunks` out.")


def check_streams(variant: Variant) -> None:
    """Raise SettingsError for weights that have no state."""
    if variant != "streaming":
        raise SettingsError(
            f"These weights are {variant}, and a state is for streaming ones: load streaming weights, or "
            "draw the whole clip."
        )
