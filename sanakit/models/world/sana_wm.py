"""SANA-WM's transformer: SANA-Video's, steered by a camera path (SanaMSVideoCamCtrl_1600M_P1_D20).

It takes noisy latents of a clip, a time for each frame, text features and cameras, and gives the velocity
noise - clip of flow matching. Cameras come in twice: as poses, from which every token has its ray in
self-attention, and as Plücker coordinates, added to the tokens (`camera.py` makes both). Without them it
draws a clip that no path steers.

Times are cut to whole thousandths, as all published code does. Weights in every file that no way of calling
reaches: `raymap_embedder`, `recall_gate`, and the gates of blocks with softmax attention.
Ways through the weights, as SANA-Video's: `forward` for training; `prepare`, `prepare_cameras` and `velocity`
for sampling; `extend` for clips in chunks, with weights that stream. States are values: a kept one is a
snapshot to go back to.
Shapes: B batch, C latent channels, T frames and H W sides of the latents, D width, N = T*H*W tokens, L text
tokens, E text width. state_dict names equal the official files, less the stored positions and null caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import (
    AfterBlock,
    ClipTransformer,
    PatchEmbedder,
    WholeTimeEmbedding,
)
from sanakit.models.video.sana_video_blocks import ClipGrid
from sanakit.models.world.attention import WorldView
from sanakit.models.world.blocks import ChunkState, WorldBlock, WorldBlockState, run_blocks
from sanakit.models.world.camera import check_cameras, inverse_pose, ray_frames
from sanakit.models.world.config import SanaWMConfig, check_chunked, check_streams
from sanakit.models.world.rays import Rays


@dataclass(frozen=True, slots=True)
class CameraContext:
    """The cameras of the frames at hand as every layer needs them; made by `SanaWM.prepare_cameras`."""

    into: Tensor | None = None  # from the world to each token's ray, B N 4 4; None: no poses
    back: Tensor | None = None  # its inverse
    added: list[Tensor | None] | None = None  # what each block adds, B N D; None: no Plücker coordinates

    def rays(self, grid: ClipGrid, config: SanaWMConfig, batch: int) -> Rays | None:
        """Return the rays of a grid's tokens. Raises SettingsError if they are of other frames."""
        tokens = grid.rotation[..., 0].numel()
        for part in (self.into, *(self.added or [])):
            if part is not None and (part.shape[1] != tokens or len(part) not in (1, batch)):
                raise SettingsError(
                    f"The cameras are of {len(part)} clips of {part.shape[1]} latents, but there are {batch} "
                    f"of {tokens}: prepare those of the frames at hand."
                )
        if self.into is None or self.back is None:
            return None
        return Rays.of(self.into, self.back, grid, config.head_dim, config.capped)


@dataclass(frozen=True, slots=True)
class WorldState(ChunkState):
    """The past of a world in chunks, for every block; from the third chunk on it does not grow."""

    cameras: bool  # whether its frames had poses


class SanaWM(ClipTransformer[SanaWMConfig, WorldBlock]):
    """The diffusion transformer of worlds; see the module's text for the ways of calling it."""

    def __init__(self, config: SanaWMConfig) -> None:
        super().__init__(config, [WorldBlock(config, number) for number in range(config.depth)])
        self.t_embedder = WholeTimeEmbedding(config.width)
        self.plucker_embedder = PatchEmbedder(config.plucker_channels, config.width, 1)
        self.raymap_embedder = PatchEmbedder(3, config.width, 1)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        *,
        cameras: Tensor | None = None,
        plucker: Tensor | None = None,
        chunks: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the velocity for training: differentiable, text padded.

        latents: B C T H W. t: B, or B T for a time of each frame; in [0, 1], 1 = pure noise. text: B L E.
        mask: B L, true where a token is real; None: all are. cameras: B T 20. plucker: B 48 T H W, both as
        `camera.camera_inputs` returns them for one clip. chunks: how many frames each chunk has, T in all;
        None: one chunk, in which all frames see each other.
        Returns B C T H W. Raises SizeError for latents that it cannot take, SettingsError for times, cameras
        or chunks that do not fit them.
        """
        x, time, modulation, grid, chunks = self._start(latents, t, chunks)
        self._checked(chunks, grid.frames, goes_on=False)
        rays, coordinates = self._seen(cameras, plucker, (grid.height, grid.width))
        # Each block adds its own product of the coordinates, which have the size to be checked.
        seen = CameraContext(rays, None if rays is None else inverse_pose(rays), [coordinates])
        view = WorldView(grid, chunks, seen.rays(grid, self.config, len(latents)))
        caption = self.caption(text)
        for block in self.blocks:
            x = block(x, modulation, caption, mask, view, coordinates)
        return self._unembed(x, time, grid)

    @torch.no_grad()
    def prepare_cameras(
        self, cameras: Tensor | None, plucker: Tensor | None, size: tuple[int, int]
    ) -> CameraContext:
        """Compute the rays of frames, and what each layer adds of them, once for all steps.

        cameras: B T 20; None: no poses. plucker: B 48 T H W; None: no coordinates. B: the clips, or 1 for one
        path of all. size: H and W of the latents. Raises SettingsError for what does not fit together.
        """
        rays, coordinates = self._seen(cameras, plucker, size)
        added = None if coordinates is None else [block.along_rays(coordinates) for block in self.blocks]
        return CameraContext(rays, None if rays is None else inverse_pose(rays), added)

    @torch.no_grad()
    def velocity(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: AfterBlock | None = None,
        state: WorldState | None = None,
        cameras: CameraContext | None = None,
        chunks: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the velocity for sampling, without gradients.

        latents: B C T H W, a clip or its next chunk. t: one time for all (cheaper), B, or B T (or 1 T) for a
        time of each frame. context: from `prepare`, for B samples, or for n B: then the latents stand for n
        times as many, one after another, as guidance needs them. guidance: must be None. after_block: called
        with each block when it has run, to free its memory. state: of the chunks before, for n B samples; it
        is read, not changed. cameras: of these frames; None: none. chunks: as for `forward`; with a state
        there is one.
        Returns B (n B) C T H W. Raises SizeError for latents that it cannot take; SettingsError for times, a
        context, cameras, chunks or a state of other sizes.
        """
        if guidance is not None:
            raise SettingsError("SANA-WM takes no guidance scale as an input: leave `guidance` out.")
        x, time, grid = self._run(latents, t, context, state, cameras, chunks, after_block, None)
        return self._unembed(x, time, grid)

    @torch.no_grad()
    def extend(
        self,
        state: WorldState | None,
        latents: Tensor,
        context: TextContext,
        t: float | Tensor = 0.0,
        *,
        cameras: CameraContext | None = None,
        after_block: AfterBlock | None = None,
    ) -> WorldState:
        """Return the state with one more chunk, of finished latents; the given one stays as it is.

        state: of the chunks before; None: there are none. All else as for `velocity`. Raises SettingsError
        for weights that do not stream, too.
        """
        check_streams(self.config.variant)
        found: list[WorldBlockState] = []
        _, _, grid = self._run(latents, t, context, state, cameras, None, after_block, found)
        frames = (state.frames if state else 0) + grid.frames
        has_poses = cameras is not None and cameras.into is not None
        return WorldState(frames, grid.height, grid.width, found, has_poses)

    def init_weights(self) -> None:
        """Draw the published initial weights: SANA-Video's, with a camera branch and rays that add nothing.

        The camera branch begins as a copy of the main one. Gates forget and discount almost nothing.
        """
        super().init_weights()
        for block in self.blocks:
            block.attn.init_gates()
            if block.plucker_proj is not None:
                nn.init.zeros_(block.plucker_proj.weight)

    def _run(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        state: WorldState | None,
        cameras: CameraContext | None,
        chunks: Sequence[int] | None,
        after_block: AfterBlock | None,
        found: list[WorldBlockState] | None,
    ) -> tuple[Tensor, Tensor, ClipGrid]:
        """Run all blocks; return tokens, times and grid. found: gets the blocks' states."""
        x, time, modulation, grid = self._begin(latents, t, context, state)
        cameras = cameras or CameraContext()
        if state is not None:
            check_streams(self.config.variant)
            if state.cameras != (cameras.into is not None):
                raise SettingsError(
                    "Chunks of one world have all poses, or none has: pass `cameras` for each of them."
                )
        chunks = self._checked(chunks, grid.frames, state is not None)
        view = WorldView(grid, chunks, cameras.rays(grid, self.config, len(latents)))
        added = cameras.added
        x = run_blocks(self.blocks, x, modulation, context, view, added, state, after_block, found)
        return x, time, grid

    def _seen(
        self, cameras: Tensor | None, plucker: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the transform to each ray, B N 4 4, and the embedded coordinates, B N D, if given."""
        rays = None
        if cameras is not None:
            # Geometry stays in float32 whatever the weights are in.
            wide = torch.float64 if self.dtype == torch.float64 else torch.float32
            rays = ray_frames(check_cameras(cameras.to(wide)), *size)
        if plucker is None:
            return rays, None
        if plucker.ndim != 5 or plucker.shape[1] != self.config.plucker_channels or plucker.shape[3:] != size:
            raise SettingsError(
                f"plucker has the shape {tuple(plucker.shape)}: pass B, {self.config.plucker_channels} "
                f"numbers, frames, {size[0]}, {size[1]}."
            )
        return rays, self.plucker_embedder(plucker)

    def _checked(self, chunks: Sequence[int] | None, frames: int, goes_on: bool) -> list[int]:
        """Return chunks that make up the frames. Raises SettingsError where these weights see no chunks."""
        chunks = self._chunks(chunks, frames)
        check_chunked(self.config.variant, len(chunks), goes_on)
        return chunks
