"""A teacher that draws worlds, and clips with camera paths: for a student that one walks through.

The teacher may see whole clips, as published, or be trained in chunks already. Its trajectories begin with
the true first frame of a clip, and go along the clip's path.
Source: SANA-WM's configurations of distillation.
Shapes: B clips, C latent channels, T frames, h w latents, F frames of pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from sanakit.data.cache.store import CachedImage
from sanakit.errors import SettingsError
from sanakit.models.contracts import VelocityModel
from sanakit.models.video.held_frame import HeldFirstFrame
from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.camera import CameraInputs
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM
from sanakit.models.world.steered import SteeredWorld
from sanakit.train.config import TrainConfig
from sanakit.train.distill.given import Given
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.captioned import CaptionedFeed
from sanakit.train.objectives.velocity import CAPTION_DROPOUT
from sanakit.train.objectives.world_velocity import (
    WatchedPaths,
    WorldMixing,
    WorldObjective,
    chunks_of,
    given_of,
)
from sanakit.train.runs.causal.taught import CAUSAL, CausalAim, StrPath, Taught, check_length
from sanakit.train.runs.world import open_paths, save_trained_world
from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.quantized import check_trainable
from sanakit.weights.video.settings import ChunkSettings, load_world_configs, load_world_settings


@dataclass(frozen=True, kw_only=True, eq=False)
class TaughtWorld(Taught[SanaWM]):
    """A teacher of worlds. config: its sizes. paths: the clips to measure on."""

    config: SanaWMConfig
    paths: WatchedPaths

    @property
    def watched(self) -> Sequence[WatchedPaths]:
        """As for all kinds."""
        return [self.paths]

    def teacher(self, dtype: str = "float32") -> SanaWM:
        """As for all kinds."""
        return load_transformer(self.source, kind="world", device=training_device(), dtype=dtype)

    def student(self, source: StrPath, *, first: bool) -> SanaWM:
        """As for all kinds."""
        return streaming_transformer(source, like=self.config, first=first)

    def objective(
        self, transformer: SanaWM, config: TrainConfig, *, caption_dropout: float = CAPTION_DROPOUT
    ) -> WorldObjective:
        """As for all kinds."""
        shared, aim = self.settings.shared, self.aim
        return WorldObjective(
            transformer,
            self.encoder,
            CaptionedFeed(self.clips.loader, self.codec),
            mixing=replace(cast(WorldMixing, aim.mixing), chunk=aim.chunks.length),
            compression=self.compression,
            shift=shared.flow_shift if aim.shift is None else aim.shift,
            seed=config.seed,
            caption_dropout=caption_dropout,
            watched=self.watched,
            sheet=self.sheet(),
        )

    def prompts(self, count: int) -> tuple[str, ...]:
        """As for all kinds."""
        return tuple(self._shown(number).captions[0].text for number in range(count))

    def save(self, folder: Path, student: SanaWM, chunks: ChunkSettings, *, final: bool) -> None:
        """As for all kinds."""
        _, frames, *sides = self.clips.latents.shape[1:]
        height, width = (side * self.compression[1] for side in sides)
        save_trained_world(
            folder,
            student,
            self.settings,
            self.codec,
            self.encoder,
            name=CAUSAL,
            chunks=chunks,
            frames=self.codec.config.frame_rule.frames(frames),
            size=(width, height),
            dtype=None if final else "float32",
        )

    def bound(self, teacher: SanaWM, known: Given) -> VelocityModel:
        """As for all kinds."""
        assert known.first is not None
        assert known.inputs is not None
        path = CameraInputs(*(part[0] for part in known.inputs))
        chunks = chunks_of(self.config.variant, len(path.cameras), self.aim.chunks.length)
        return HeldFirstFrame(SteeredWorld(teacher, path, chunks=chunks), known.first)

    def given(self, numbers: Sequence[int]) -> Given:
        """As for all kinds."""
        shown = [self._shown(number) for number in numbers]
        latents = torch.stack([cast(Tensor, one.latents) for one in shown]).float()
        cameras = torch.stack([cast(Tensor, one.cameras) for one in shown])
        return given_of(latents.to(training_device()), cameras, self.compression)

    def given_digest(self, count: int) -> str:
        """As for all kinds."""
        found = hashlib.sha256(f"{self.config.variant} {self.aim.chunks.length}".encode())
        for number in range(min(count, len(self._members))):
            shown = self._shown(number)
            for part in (cast(Tensor, shown.latents)[:, :1], cast(Tensor, shown.cameras)):
                found.update(part.contiguous().numpy().tobytes())
        return found.hexdigest()

    @cached_property
    def _members(self) -> list[int]:
        """The clips that trajectories are drawn of: those of the size that most have, with a caption."""
        cache = self.clips.loader.cache
        members = max(self.clips.loader.buckets.members, key=len).tolist()
        found = [number for number in members if cache.captions(number)]
        if not found:
            raise SettingsError("No clip that is trained on has a caption: caption the clips first.")
        return found

    def _shown(self, number: int) -> CachedImage:
        """Return the clip of a trajectory."""
        return self.clips.loader.cache[self._members[number % len(self._members)]]


def open_taught_world(
    data: StrPath, cache: Path, source: StrPath, config: TrainConfig, aim: CausalAim
) -> TaughtWorld:
    """Open a teacher of worlds, and clips with paths to train on, which are cached in `cache`.

    Raises SettingsError for a teacher that is distilled, or whose autoencoder does not decode chunks as they
    come, and as `open_paths` does.
    """
    check_trainable(source)
    sizes, codec_config = load_world_configs(source)
    settings = load_world_settings(source)
    if sizes.causal and settings.chunks.times is not None:
        raise SettingsError(
            f"{source} is distilled to few steps, so it cannot teach: use the model that it was made from."
        )
    if codec_config.lookahead:
        raise SettingsError(
            f"The autoencoder of {source} looks {codec_config.lookahead} latents ahead, so its student could "
            "not stream: put the causal one into the folder."
        )
    clips, paths = open_paths(data, cache, source, config, aim.resolution)
    device = training_device()
    codec = cast(WanVAE | LTX2VAE, load_autoencoder(source, device=device))
    check_length(clips.latents.shape[2], codec.config.frame_rule, aim.chunks.length)
    encoder = load_text_encoder(source, device=device)
    parts = {"source": source, "config": sizes, "settings": settings, "codec": codec, "paths": paths}
    return TaughtWorld(**parts, encoder=encoder, clips=clips, aim=aim)


def streaming_transformer(source: StrPath, *, like: SanaWMConfig, first: bool) -> SanaWM:
    """Load a transformer to be trained as streaming weights, float32, on the training's device.

    All kinds of weights have the same tensors. like: the teacher's sizes, which it must have. first: whether
    it begins to learn chunks. Raises SettingsError for one that does not fit.
    """
    check_trainable(source)
    settings = load_world_settings(source)
    loaded = load_transformer(source, kind="world", dtype="float32")
    if first and loaded.config.causal and settings.chunks.times is not None:
        raise SettingsError(
            f"{source} is distilled to few steps, which this training would undo: train the model it was "
            "made from."
        )
    if not first and loaded.config.variant == "bidirectional":
        raise SettingsError(
            f"{source} sees whole clips and has not learned chunks: train it with `sana train causal-chunks` "
            "first."
        )
    own = replace(loaded.config, variant="streaming")
    if own != replace(like, variant="streaming"):
        raise SettingsError(f"{source} has other sizes than its teacher: use a model made from the teacher.")
    if own == loaded.config:
        return loaded.to(training_device())
    student = SanaWM(own)
    student.load_state_dict(loaded.state_dict(), assign=True)
    return student.to(training_device())
