"""A world model bound to a camera path: a `VelocityModel` of the frames that the path is of.

Pipelines draw clips with it as with any other model of clips, whole or in chunks. It prepares the rays of the
frames at hand once for all steps, and keeps those of the last frames alone, so that a long path takes no more
memory than a chunk of it.
Shapes: B clips, C latent channels, T frames and h w sides of the latents, s frames of pixels for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.bound import BoundModel
from sanakit.models.sana import TextContext
from sanakit.models.world.camera import CameraInputs
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import CameraContext, SanaWM, WorldState


class SteeredWorld(BoundModel[SanaWM]):
    """A `SanaWM` and the cameras of its frames.

    base: stays as it is. path: of the frames from number `first` of the clip on; None: no cameras. chunks: of
    a whole clip, of which the first few may be passed alone, for weights that see chunks without a state;
    None: one.
    """

    def __init__(
        self, base: SanaWM, path: CameraInputs | None, *, first: int = 0, chunks: Sequence[int] | None = None
    ) -> None:
        super().__init__(base)
        self.path, self.first, self.chunks = path, first, chunks
        self._prepared: tuple[tuple[int, int, torch.device], CameraContext] | None = None

    @property
    def config(self) -> SanaWMConfig:
        """The sizes of the base."""
        return self.base.config

    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
        state: WorldState | None = None,
    ) -> Tensor:
        """Return the velocity of B C T h w, seen by the path's cameras of these frames.

        state: of the frames before. All else as for `SanaWM.velocity`. Raises SettingsError for frames that
        the path has no cameras for.
        """
        return self.base.velocity(
            latents,
            t,
            context,
            guidance,
            after_block=after_block,
            state=state,
            cameras=self._cameras(latents, state),
            chunks=self._chunks(latents.shape[2]),
        )

    def extend(
        self,
        state: WorldState | None,
        latents: Tensor,
        context: TextContext,
        t: float | Tensor = 0.0,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> WorldState:
        """Return the state with a chunk of finished latents, seen by the path's cameras of these frames.

        All as for `SanaWM.extend`. Raises as `velocity` does.
        """
        cameras = self._cameras(latents, state)
        return self.base.extend(state, latents, context, t, cameras=cameras, after_block=after_block)

    def _chunks(self, frames: int) -> Sequence[int] | None:
        """Return the chunks that begin within the first frames of a clip."""
        if self.chunks is None:
            return None
        starts = [0, *accumulate(self.chunks)]
        return [length for length, start in zip(self.chunks, starts, strict=False) if start < frames]

    def _cameras(self, latents: Tensor, state: WorldState | None) -> CameraContext | None:
        """Return the rays of the frames at hand, which follow the state's; None: there are no cameras."""
        if self.path is None:
            return None
        start, count = (state.frames if state else 0) - self.first, latents.shape[2]
        known = len(self.path.cameras)
        if start < 0 or start + count > known:
            raise SettingsError(
                f"The path has cameras for latent frames {self.first} to {self.first + known - 1}, not for "
                f"{self.first + start} to {self.first + start + count - 1}: pass those of the frames at hand."
            )
        key = (start, count, latents.device)
        if self._prepared is None or self._prepared[0] != key:
            cameras = self.path.cameras[None, start : start + count].to(latents.device)
            plucker = self.path.plucker[None, :, start : start + count].to(latents.device)
            height, width = latents.shape[3:]
            self._prepared = key, self.base.prepare_cameras(cameras, plucker, (height, width))
        return self._prepared[1]
