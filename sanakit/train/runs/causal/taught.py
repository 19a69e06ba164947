"""The parts that all stages share: a teacher without its transformer, the clips, and what its kind decides.

`clips.py` and `worlds.py` are the two kinds. A stage asks for an objective, a student or a trajectory, and
has the result saved; it does not know which kind it trains.
Shapes: B clips, C latent channels, T frames, h w latents, F frames of pixels.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from sanakit.data.read.source import data_fingerprint
from sanakit.errors import SettingsError
from sanakit.models.contracts import VelocityModel
from sanakit.models.video.frame_rule import FrameRule
from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.sana_wm import SanaWM
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import TrainConfig
from sanakit.train.distill.dmd import Matching
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import NOTHING, Given
from sanakit.train.feeds.feed import decoded
from sanakit.train.objectives.clip_velocity import ClipMixing, ClipObjective
from sanakit.train.objectives.student_clips import StudentClips
from sanakit.train.objectives.velocity import CAPTION_DROPOUT, Sheet, Watched
from sanakit.train.objectives.world_velocity import WorldMixing, WorldObjective
from sanakit.train.record import MadeWith
from sanakit.train.runs.trained_clips import TrainedClips
from sanakit.weights.fingerprint import fingerprint_weights
from sanakit.weights.video.settings import ChunkSettings, VideoSettings

StrPath = str | os.PathLike[str]

CAUSAL = "-causal"  # behind the teacher's name
DRAWN = 8  # clips on a sheet, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalAim:
    """The settings of the three stages besides those of the loop.

    chunks: how the result draws. mixing, shift: of the first stage, see `ClipMixing` and `WorldMixing`; the
    shift None: the model's own. trajectories: how many the teacher draws for the second; held_out: of them.
    matching: of the third. resolution: in pixels; None: the model's own. cache: folder of the encoded clips;
    None: in the run's.
    """

    chunks: ChunkSettings = field(default_factory=ChunkSettings)
    mixing: ClipMixing | WorldMixing = field(default_factory=ClipMixing)
    shift: float | None = 3.0
    trajectories: int = 1000
    held_out: int = 16
    matching: Matching = field(default_factory=Matching)
    resolution: int | None = None
    cache: Path | None = None

    @property
    def sampler(self) -> FewTimes:
        """The few steps of the student. Raises SettingsError for chunks without times."""
        return FewTimes.of(self.chunks)


Network = TypeVar("Network", SanaVideo, SanaWM)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Taught(ABC, Generic[Network]):
    """A teacher without its transformer, and the clips that are trained on. aim: of the run."""

    source: StrPath  # the teacher
    settings: VideoSettings
    codec: WanVAE | LTX2VAE
    encoder: TextEncoder
    clips: TrainedClips
    aim: CausalAim

    @abstractmethod
    def teacher(self, dtype: str = "float32") -> Network:
        """Load the teacher's transformer, on the training's device."""

    @abstractmethod
    def student(self, source: StrPath, *, first: bool) -> Network:
        """Load a transformer to be trained in chunks, float32, on the training's device.

        first: whether it begins to learn chunks. Raises SettingsError for one that does not fit its teacher
        or the stage.
        """

    @abstractmethod
    def objective(
        self, transformer: Network, config: TrainConfig, *, caption_dropout: float = CAPTION_DROPOUT
    ) -> ClipObjective | WorldObjective:
        """Return the objective of velocities on the clips."""

    @abstractmethod
    def prompts(self, count: int) -> tuple[str, ...]:
        """Return the prompts of trajectories 0 to count - 1."""

    @abstractmethod
    def save(self, folder: Path, student: Network, chunks: ChunkSettings, *, final: bool) -> None:
        """Write a student with the teacher's other parts. final: it is not trained further."""

    def bound(self, teacher: Network, known: Given) -> VelocityModel:
        """Return the teacher as it draws one trajectory, of the frames that are not known."""
        return teacher

    def given(self, numbers: Sequence[int]) -> Given:
        """Return what is known of trajectories besides their prompts."""
        return NOTHING

    def given_digest(self, count: int) -> str:
        """Return what tells the known parts of so many trajectories from others; "": nothing is known."""
        return ""

    @property
    def watched(self) -> Sequence[Watched]:
        """The clips that are measured on."""
        return [Watched("", self.clips.latents, self.clips.captions)]

    @property
    def compression(self) -> tuple[int, int]:
        """Frames and pixels of each latent."""
        return self.codec.config.frame_rule.per_latent, self.codec.config.compression

    def drawing(self) -> StudentClips:
        """Return how a student of few steps draws."""
        return StudentClips(
            self.encoder,
            self.sheet(),
            chunk=self.aim.chunks.length,
            sampler=self.aim.sampler,
            watched=self.watched,
            compression=self.compression,
        )

    def sheet(self) -> Sheet:
        """Return the contact sheet that each stage draws: captions of clips that are measured on."""
        decode: Callable[[Tensor], Tensor] = partial(decoded, self.codec)
        return Sheet(
            prompts=self.clips.captions[:DRAWN],
            guidance=self.settings.shared.guidance,
            steps=self.settings.shared.steps,
            shape=tuple(self.clips.latents.shape[1:]),
            decode=decode,
        )

    def made_with(self, data: StrPath, source: StrPath, choices: Mapping[str, object]) -> MadeWith:
        """Return the record of a run: the teacher's weights are among them."""
        return MadeWith(
            source=source,
            parts={"teacher": fingerprint_weights(self.source).whole},
            data=data,
            content=data_fingerprint(self.clips.loader.cache),
            choices={**choices, "shape": list(self.clips.latents.shape[1:])},
        )


def check_length(frames: int, rule: FrameRule, chunk: int) -> None:
    """Raise SettingsError for clips of so many latent frames that are a single chunk."""
    if frames < (least := 2 * chunk):
        raise SettingsError(
            f"Most clips have {rule.frames(frames)} frames, which are a single chunk of {chunk} latents or "
            f"more: train on clips of {rule.frames(least)} frames, or set shorter chunks in the recipe."
        )
