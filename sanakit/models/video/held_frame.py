"""A model of clips whose first frame is given: it sees that frame clean, and moves the others alone.

The frame goes in as the first of the latents, at time 0 in every step, with and without the prompt; the
others have the time of the step. Any solver draws them, and none can change the given one.
Source: SANA-Video (arXiv:2509.24695), image to video by the weights of text to video; diffusers'
SanaImageToVideoPipeline draws the same.
Shapes: B clips, C latent channels, T frames and h w sides of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.sana_video2 import SanaVideo2
from sanakit.models.video.sana_video2.blocks import Video2Block
from sanakit.models.video.sana_video_blocks import ClipBlock

ClipModel = SanaVideo | SanaVideo2  # draws whole clips, and takes a time for each frame


class HeldFirstFrame(nn.Module):
    """A `VelocityModel` of the frames behind a given one.

    base: stays as it is. first: 1 C 1 h w, latents as the base sees them; all clips begin with it.
    """

    def __init__(self, base: ClipModel, first: Tensor) -> None:
        super().__init__()
        self.base, self.config, self.first = base, base.config, first

    @property
    def blocks(self) -> Sequence[ClipBlock] | Sequence[Video2Block]:
        """The blocks of the base."""
        return self.base.blocks

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return self.base.dtype

    def prepare(
        self, features: Sequence[Tensor], counts: Sequence[int] | None = None, eps: float | None = None
    ) -> TextContext:
        """Return the base's context; all as for `SanaVideo.prepare`."""
        return self.base.prepare(features, counts, eps)

    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> Tensor:
        """Return the velocity of latents B C T-1 h w, the frames behind the first; t: one time, or B.

        All else as for `SanaVideo.velocity`.
        """
        whole = torch.cat([self.first.to(latents).expand(len(latents), -1, -1, -1, -1), latents], dim=2)
        times = torch.as_tensor(t, dtype=torch.float32, device=latents.device).reshape(-1, 1)
        times = times.repeat(1, whole.shape[2])  # 1 or B, T
        times[:, 0] = 0
        return self.base.velocity(whole, times, context, guidance, after_block=after_block)[:, :, 1:]


def behind(first: Tensor | None, frames: Tensor) -> Tensor:
    """Return clips B C t h w with the held frame, 1 C 1 h w, in front; None: as they are."""
    if first is None:
        return frames
    return torch.cat([first.to(frames).expand(len(frames), -1, -1, -1, -1), frames], dim=2)
