"""Knowledge of clips besides their text: the first frame, and the camera of every frame.

A world is drawn from an image on, along a path. Its teacher, its critic and its student are all shown both,
so that the losses of clips and of worlds are one: a model is asked through `velocity` here. The first frame
goes in clean, at time 0, and nothing is learned of it. Of plain clips nothing is known.
Shapes: B clips, C latent channels, T frames, h w latents, s frames of pixels for each, L text tokens, E text
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.world.camera import CameraInputs
from sanakit.models.world.sana_wm import SanaWM

ClipNetwork = SanaVideo | SanaWM


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A first frame and cameras.

    first: B C 1 h w, clean latents; None: it is drawn as the others are. inputs: B T 20 and B 6s T h w, of
    all frames; None: no cameras.
    """

    first: Tensor | None = None
    inputs: CameraInputs | None = None

    @property
    def held(self) -> int:
        """The number of frames that are known."""
        return 0 if self.first is None else 1

    def velocity(
        self,
        model: ClipNetwork,
        noisy: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor,
        chunks: Sequence[int] | None = None,
    ) -> Tensor:
        """Return a model's velocity of clips or their beginnings, B C T h w.

        Of a known frame it means nothing. noisy: B C T h w; its first frame is not used if that is known. t:
        B, or B T. text: B L E. mask: B L. chunks: frames of each, T in all; None: all see each other.
        """
        frames = noisy.shape[2]
        if self.first is not None:
            noisy = self.beginning(noisy)
            t = (t[:, None].expand(-1, frames) if t.ndim == 1 else t).clone()
            t[:, 0] = 0
        if not isinstance(model, SanaWM):
            return model(noisy, t, text, mask, chunks=chunks)
        seen = {}
        if self.inputs is not None:
            cameras, plucker = self.inputs
            seen = {"cameras": cameras[:, :frames], "plucker": plucker[:, :, :frames]}
        return model(noisy, t, text, mask, chunks=chunks, **seen)

    def beginning(self, clips: Tensor) -> Tensor:
        """Return clips, B C T h w, that begin with the known frame."""
        return clips if self.first is None else torch.cat([self.first.to(clips), clips[:, :, 1:]], dim=2)

    def drawn(self, clips: Tensor) -> Tensor:
        """Return the frames of clips, B C T h w, that are not known."""
        return clips[:, :, self.held :]


NOTHING = Given()
