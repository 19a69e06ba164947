"""Velocity prediction of clips along camera paths: flow matching with cameras and a clean first frame.

Most samples begin with their first frame clean, at time 0 and without loss, as a world is entered by an
image. Weights that see whole clips have one time for all other frames. Weights that see chunks learn from a
mixture of times of the chunks (`flow/chunk_times.py`), so that the past may be noisier, as noisy or clean.
Frames that are shown clean have no loss: nothing of their noise can be seen.

That the loss falls does not show that paths are followed. `evaluate` therefore measures held-out clips with
their own path ("right"), with none, and with that of another clip ("other"); "gap" is the difference of the
first and the last, the figure that has to grow.
Source: SANA-WM (stage 1 of its released training): the mixture, the share of clean first frames, and the
weights that begin at zero; that clean frames have no loss is ours.
Shapes: B batch, C latent channels, T latent frames, F frames of pixels, h w latents, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Unpack, cast

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.errors import SettingsError, WeightsError
from sanakit.flow.chunk_times import ChunkWay, mix_chunk_times
from sanakit.flow.path import interpolate
from sanakit.images.sheets import contact_sheet
from sanakit.models.video.held_frame import HeldFirstFrame, behind
from sanakit.models.world.attention import SoftmaxAttention
from sanakit.models.world.camera import CameraInputs, camera_inputs
from sanakit.models.world.config import Variant
from sanakit.models.world.sana_wm import SanaWM
from sanakit.models.world.steered import SteeredWorld
from sanakit.pipelines.video.streaming import chunk_lengths
from sanakit.pipelines.world.world import teacher_chunks
from sanakit.seeds import further_seed, step_generator
from sanakit.text.encoder import TextEncoder
from sanakit.train.distill.given import Given
from sanakit.train.feeds.feed import Feed
from sanakit.train.objectives.clip_velocity import COLUMNS, MIXING, frame_errors
from sanakit.train.objectives.flow_matching import TIMES_WATCHED, draw_latents, other_captions
from sanakit.train.objectives.velocity import CaptionedVelocity, VelocityBatch, VelocitySettings, Watched
from sanakit.train.parts import Part

PUBLISHED: dict[ChunkWay, float] = {"same": 0.1, "incremental": 0.4, "last": 0.4, "clean": 0.1}
DRAWN = 3  # clips of a sheet


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldMixing:
    """How clips along paths are shown. Raises SettingsError for shares out of range.

    held: share of the samples that begin with their first frame clean. chunk: latent frames of a chunk, for
    weights that see chunks. ways: shares of the ways in which times of chunks are drawn, 1 in all.
    """

    held: float = 0.9
    chunk: int = 3
    ways: dict[ChunkWay, float] = field(default_factory=lambda: dict(PUBLISHED))

    def __post_init__(self) -> None:
        if not 0 <= self.held <= 1:
            raise SettingsError(f"held = {self.held!r}, but it must be a number from 0 to 1.")
        if self.chunk < 1:
            raise SettingsError(f"A chunk of {self.chunk} latent frames is empty: use at least 1.")
        if unknown := sorted(set(self.ways) - set(PUBLISHED)):
            raise SettingsError(
                f"There is no way {unknown[0]!r} of drawing times: use {', '.join(PUBLISHED)}."
            )
        if min(self.ways.values(), default=0) < 0 or abs(sum(self.ways.values()) - 1) > 1e-6:
            raise SettingsError(f"The shares of {self.ways} must not be negative, and must add up to 1.")


@dataclass(frozen=True, slots=True, eq=False)
class WorldBatch(VelocityBatch):
    """A part of a global batch of clips along paths, drawn. Its t is B T: a time for each frame."""

    chunks: Sequence[int] | None = field(kw_only=True)  # frames of each chunk; None: all are one
    inputs: CameraInputs = field(kw_only=True)  # of each clip: B T 20 and B 6s T h w


@dataclass(frozen=True, slots=True, eq=False)
class WatchedPaths(Watched):
    """Clips that are measured on, with their cameras, B F 20 as `Shown` has them."""

    cameras: Tensor


class WorldObjective(CaptionedVelocity[SanaWM]):
    """Velocity prediction of clips along camera paths, on the transformer's device.

    feed: of latents B C T h w with cameras. mixing: how they are shown. compression: frames and pixels of
    each latent of the autoencoder. settings: as for `CaptionedVelocity`; what is watched are `WatchedPaths`.
    Raises SettingsError for Plücker coordinates of another autoencoder, WeightsError for weights that no
    gradient of a path can reach.
    """

    def __init__(
        self,
        transformer: SanaWM,
        encoder: TextEncoder,
        feed: Feed,
        *,
        mixing: WorldMixing,
        compression: tuple[int, int],
        **settings: Unpack[VelocitySettings],
    ) -> None:
        super().__init__(transformer, encoder, feed, **settings)
        self.mixing, self.compression = mixing, compression
        if transformer.config.plucker_channels != 6 * compression[0]:
            taken, wanted = transformer.config.plucker_channels, 6 * compression[0]
            raise SettingsError(
                f"The transformer takes {taken} Plücker coordinates, but 6 for each of {compression[0]} "
                f"frames of a latent are {wanted}: use parts of one model."
            )
        check_paths_learnable(transformer)

    def batch(self, step: int, part: Part) -> WorldBatch:
        """Draw samples, noise, the times of their frames, and how a part of a step's batch is shown."""
        drawn, mixing = super().batch(step, part), self.mixing
        frames, own = drawn.noise.shape[2], slice(part.start, part.stop)
        generator = step_generator(further_seed(self.seed, MIXING), step)
        held, which = torch.rand(2, part.total, generator=generator, dtype=torch.float32)
        chunks = chunks_of(self.transformer.config.variant, frames, mixing.chunk)
        t = drawn.t[:, None].repeat(1, frames)
        if chunks is not None:
            times = mix_chunk_times(which, len(chunks), self.shift, generator, mixing.ways.items())[own]
            each = times.repeat_interleave(torch.tensor(chunks), dim=1).to(self.device)
            t = torch.where(each.isnan(), t, each)
        t[(held[own] < mixing.held).to(self.device) & (frames > 1), 0] = 0
        inputs = inputs_of(drawn.cameras, drawn.noise.shape, self.compression)
        values = {one.name: getattr(drawn, one.name) for one in fields(drawn)}
        placed = CameraInputs(*(part.to(self.device) for part in inputs))
        return WorldBatch(**{**values, "t": t}, chunks=chunks, inputs=placed)

    def errors(self, batch: VelocityBatch, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the mean square error of each clip, B, over all frames that are not shown clean."""
        own = cast(WorldBatch, batch)
        shown = (latents, own.noise, own.t, text, mask)
        return world_errors(self.transformer, *shown, inputs=own.inputs, chunks=own.chunks)

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure watched clips behind a clean first frame, along their own path, none and another one.

        All at one time of the frames behind it, and at fixed noise. Where all paths are alike, "other" and
        "gap" are left out.
        """
        transformer, encoder = self.parts(averaged)
        measured: dict[str, float] = {}
        for one in self.watched:
            cameras = cast(WatchedPaths, one).cameras
            latents = one.latents.to(self.device)
            generator = torch.Generator().manual_seed(1)
            noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32).to(self.device)
            text, mask = encoder.encode_tokens(encoder.tokenize(one.captions, notes=[]))
            cases: dict[str, CameraInputs | None] = {"right": self._inputs(cameras, latents), "none": None}
            if others := other_paths(cameras):
                cases["other"] = self._inputs(cameras[others], latents)
            frames = latents.shape[2]
            chunks = chunks_of(transformer.config.variant, frames, self.mixing.chunk)
            for time in TIMES_WATCHED:
                t = latents.new_full((len(latents), frames), time)
                t[:, 0] = 0
                for case, inputs in cases.items():
                    shown = (latents, noise, t, text, mask)
                    errors = world_errors(transformer, *shown, inputs=inputs, chunks=chunks)
                    measured[f"{one.name}{case}_{time}"] = errors.mean().item()
                if others:
                    gap = measured[f"{one.name}other_{time}"] - measured[f"{one.name}right_{time}"]
                    measured[f"{one.name}gap_{time}"] = gap
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw some watched clips in three rows each: as they are, as drawn, and as drawn on another path.

        All begin with the true first frame and have the same noise.
        """
        transformer, encoder = self.parts(averaged)
        watched, drawing = cast(WatchedPaths, self.watched[0]), self.drawing
        channels, frames, *sides = watched.latents.shape[1:]
        chunks = chunks_of(transformer.config.variant, frames, self.mixing.chunk)
        others = other_paths(watched.cameras)
        rows: list[Tensor] = []
        for number, caption in enumerate(watched.captions[:DRAWN]):
            own = watched.latents[number][None].to(self.device)
            rows.append(own)
            for path in [number, *others[number : number + 1]]:
                inputs = self._inputs(watched.cameras[path][None], own)
                steered = SteeredWorld(
                    transformer, CameraInputs(*(part[0] for part in inputs)), chunks=chunks
                )
                settings = {"guidance": drawing.guidance, "steps": drawing.steps, "shift": self.shift}
                model, shape = HeldFirstFrame(steered, own[:, :, :1]), (channels, frames - 1, *sides)
                rows.append(behind(own[:, :, :1], draw_latents(model, encoder, [caption], shape, **settings)))
        return sheet_of_paths(drawing.decode(torch.cat(rows)), self.compression[0])

    def given(self, batch: VelocityBatch) -> Given:
        """Return what is known of a part's clips: the first frame and the cameras."""
        latents = batch.latents if isinstance(batch.latents, Tensor) else batch.latents.encode()
        return Given(latents[:, :, :1], cast(WorldBatch, batch).inputs)

    def given_of(self, watched: Watched) -> Given:
        """Return what is known of watched clips."""
        return given_of(
            watched.latents.to(self.device), cast(WatchedPaths, watched).cameras, self.compression
        )

    def _train(self, transformer: SanaWM, train_text: bool) -> None:
        """Set what is trained: all that any way of calling reaches, as DDP waits for all gradients."""
        super()._train(transformer, train_text)
        for parameter in idle_parameters(transformer):
            parameter.requires_grad_(False)

    def _inputs(self, cameras: Tensor, latents: Tensor) -> CameraInputs:
        inputs = inputs_of(cameras, latents.shape, self.compression)
        return CameraInputs(*(part.to(self.device) for part in inputs))


def given_of(latents: Tensor, cameras: Tensor | None, compression: tuple[int, int]) -> Given:
    """Return what is known of clips, latents B C T h w and cameras B F 20. Others: as for `inputs_of`."""
    inputs = inputs_of(cameras, latents.shape, compression)
    return Given(latents[:, :, :1], CameraInputs(*(part.to(latents.device) for part in inputs)))


def other_paths(cameras: Tensor) -> list[int]:
    """Return for each clip one with another path, cameras: B F 20; [] where all are alike."""
    return other_captions([tuple(path.flatten().tolist()) for path in cameras])


def sheet_of_paths(clips: Tensor, per_latent: int) -> Image.Image:
    """Lay out clips, B 3 T H W in [-1, 1], a row of some frames each."""
    shown = clips[:, :, :: drawing_step(per_latent)][:, :, :COLUMNS]
    return contact_sheet(shown.transpose(1, 2).flatten(0, 1), shown.shape[2])


def drawing_step(per_latent: int) -> int:
    """Return every how many frames of a clip a sheet shows one."""
    return max(2, per_latent)


def chunks_of(variant: Variant, frames: int, chunk: int) -> list[int] | None:
    """Return the latent frames of each chunk as weights of a variant see them; None: the whole clip."""
    if variant == "bidirectional":
        return None
    return teacher_chunks(frames, chunk) if variant == "chunk_causal" else chunk_lengths(frames, chunk)


def inputs_of(cameras: Tensor | None, shape: Sequence[int], compression: tuple[int, int]) -> CameraInputs:
    """Return what the model takes of cameras, B F 20 as `Shown` has them: B T 20 and B 6s T h w.

    shape: of the latents, B C T h w. compression: frames and pixels of each. Raises SettingsError without
    cameras, and for as many as the latents' frames do not have.
    """
    if cameras is None:
        raise SettingsError("These clips have no cameras: train a world on clips with their camera paths.")
    per_latent, pixels = compression
    frames = 1 + (shape[2] - 1) * per_latent
    if cameras.shape[1] != frames:
        raise SettingsError(
            f"The clips have {cameras.shape[1]} cameras, but {shape[2]} latents stand for {frames} frames: "
            "pass one for each frame."
        )
    size = (shape[3] * pixels, shape[4] * pixels)
    each = [
        camera_inputs(one[:, :16].unflatten(1, (4, 4)), one[:, 16:], size=size, compression=compression)
        for one in cameras
    ]
    return CameraInputs(*(torch.stack(parts) for parts in zip(*each, strict=True)))


def world_errors(
    transformer: SanaWM,
    latents: Tensor,
    noise: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    *,
    inputs: CameraInputs | None,
    chunks: Sequence[int] | None,
) -> Tensor:
    """Return flow matching's mean square of each clip, B, as `frame_errors` does.

    latents, noise: B C T h w. t: B T. text: B L E. mask: B L, true where a token is real. inputs:
    B T 20 and B 6s T h w; None: no path. chunks: frames of each, T in all; None: one.
    """
    noisy = interpolate(latents, noise, t[:, None, :, None, None])
    cameras, plucker = inputs if inputs is not None else (None, None)
    found = transformer(noisy, t, text, mask, cameras=cameras, plucker=plucker, chunks=chunks).float()
    return frame_errors(found, latents, noise, t)


def idle_parameters(transformer: SanaWM) -> list[nn.Parameter]:
    """Return the parameters that are in every file and that no way of calling reaches."""
    idle = list(transformer.raymap_embedder.parameters())
    for block in transformer.blocks:
        attn = block.attn
        idle.append(attn.recall_gate)
        if isinstance(attn, SoftmaxAttention):
            idle += [*attn.beta_proj.parameters(), *attn.gate_proj.parameters(), attn.A_log, attn.dt_bias]
    return idle


def check_paths_learnable(transformer: SanaWM) -> None:
    """Raise WeightsError where both layers of the Plücker coordinates are zero: no gradient leaves zero.

    Published weights begin with one of the two at zero (`SanaWM.init_weights`); diffusers' class, untrained,
    has the other at zero, and the convolutions of keys besides.
    """
    if not transformer.plucker_embedder.proj.weight.any():
        for number, block in enumerate(transformer.blocks):
            projected = block.plucker_proj
            if projected is not None and not projected.weight.any():
                raise WeightsError(
                    f"plucker_embedder and blocks.{number}.plucker_proj are both zero, so that no path can "
                    "be learned: start from trained weights, or from SanaWM.init_weights."
                )
