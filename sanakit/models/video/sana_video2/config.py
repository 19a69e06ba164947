"""Sizes of SANA-Video 2.0."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import VideoConfig
from sanakit.models.video.sana_video_blocks import spread_evenly


@dataclass(frozen=True, kw_only=True, slots=True)
class SanaVideo2Config(VideoConfig):
    """Size of a transformer of clips. Raises SettingsError for sizes that do not go together."""

    head_dim: int = 128  # of linear attention
    softmax_head_dim: int = 256  # of the blocks with softmax attention
    latent_channels: int = 128  # C, of the LTX-2.3 autoencoder
    mlp_ratio: float = 4.0
    sample_size: int = 23  # rows of tokens of a clip of 736 px
    softmax_share: float = 0.25  # of the blocks, spread evenly; at least one has softmax attention
    group: int = 8  # blocks whose sum is one source of what later blocks see

    def __post_init__(self) -> None:
        VideoConfig.__post_init__(self)
        softmax = self.softmax_head_dim
        if softmax < 6 or softmax % 2 or self.width % softmax:
            raise SettingsError(
                f"SANA-Video 2.0's softmax_head_dim is {softmax}: it must be even, at least 6, and divide "
                f"the width {self.width}."
            )
        if self.patch != 1 or not self.qk_norm:
            raise SettingsError("SANA-Video 2.0 has a token for each latent, and norms of queries and keys.")
        if not 0 < self.softmax_share <= 1 or self.group < 1:
            raise SettingsError(
                "SANA-Video 2.0's softmax_share lies above 0, up to 1, and its group starts from 1."
            )

    @property
    def causal(self) -> bool:
        """Return whether it was trained on chunks that see earlier ones alone: no release was."""
        return False

    @property
    def softmax_blocks(self) -> tuple[int, ...]:
        """The numbers of the blocks with softmax attention, from 0."""
        return spread_evenly(self.depth, self.softmax_share)

    def ends_group(self, block: int) -> bool:
        """Return whether a block, from 0 on, is the last one of its group."""
        return (block + 1) % self.group == 0 or block + 1 == self.depth


SANA_VIDEO2_5B = SanaVideo2Config(depth=32, width=2560, cross_heads=20)
SANA_VIDEO2_14B = replace(SANA_VIDEO2_5B, depth=40, width=4096, cross_heads=32)
