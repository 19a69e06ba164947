"""A model of clips whose first frame is given: it sees that frame clean, and moves the others alone.

The frame goes in as the first of the latents, at time 0 in every step, with and without the prompt; the
others have the time of the step. Any solver draws them, and none can change the given one.
Source: SANA-Video (arXiv:2509.24695), image to video by the weights of text to video; diffusers'
SanaImageToVideoPipeline draws the same.
Shapes: B clips, C latent channels, T frames and h w sides of the latents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.models.bound import BoundModel
from sanakit.models.contracts import VelocityModel
from sanakit.models.sana import TextContext


class HeldFirstFrame(BoundModel[VelocityModel]):
    """A `VelocityModel` of the frames behind a given one.

    base: of clips, such as `SanaVideo`; it stays as it is. first: 1 C 1 h w, latents as the base sees them;
    all clips begin with it.
    """

    def __init__(self, base: VelocityModel, first: Tensor) -> None:
        super().__init__(base)
        self.first = first

    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> Tensor:
        """Return the velocity of latents B C T-1 h w, the frames behind the first.

        t: one time, B, or B T-1 (or 1 T-1) for a time of each frame. All else as for `SanaVideo.velocity`.
        """
        whole = torch.cat([self.first.to(latents).expand(len(latents), -1, -1, -1, -1), latents], dim=2)
        times = torch.as_tensor(t, dtype=torch.float32, device=latents.device)
        if times.ndim < 2:
            times = times.reshape(-1, 1).expand(-1, latents.shape[2])
        times = F.pad(times, (1, 0))  # 1 or B, T
        return self.base.velocity(whole, times, context, guidance, after_block=after_block)[:, :, 1:]


def behind(first: Tensor | None, frames: Tensor) -> Tensor:
    """Return clips B C t h w with the held frame, 1 C 1 h w, in front; None: as they are."""
    if first is None:
        return frames
    return torch.cat([first.to(frames).expand(len(frames), -1, -1, -1, -1), frames], dim=2)
