"""A teacher that draws whole clips of prompts, and clips with captions: for a student such as LongSANA.

Shapes: B clips, C latent channels, T frames, h w latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.models.video.wan_vae import WanVAE
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.captioned import CaptionedFeed
from sanakit.train.objectives.clip_velocity import ClipMixing, ClipObjective
from sanakit.train.objectives.velocity import CAPTION_DROPOUT
from sanakit.train.runs.causal.taught import CAUSAL, CausalAim, StrPath, Taught, check_length
from sanakit.train.runs.trained_clips import open_trained_clips
from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.quantized import check_trainable
from sanakit.weights.save import DEFAULTS
from sanakit.weights.video.folder import save_video
from sanakit.weights.video.settings import ChunkSettings, load_video_configs, load_video_settings


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TaughtClips(Taught[SanaVideo]):
    """A teacher of whole clips. config: its sizes."""

    config: SanaVideoConfig

    def teacher(self, dtype: str = "float32") -> SanaVideo:
        """As for all kinds."""
        device = training_device()
        return cast(SanaVideo, load_transformer(self.source, kind="clip", device=device, dtype=dtype))

    def student(self, source: StrPath, *, first: bool) -> SanaVideo:
        """As for all kinds."""
        return causal_transformer(source, like=self.config, distilled=not first)

    def objective(
        self, transformer: SanaVideo, config: TrainConfig, *, caption_dropout: float = CAPTION_DROPOUT
    ) -> ClipObjective:
        """As for all kinds."""
        shared, aim = self.settings.shared, self.aim
        return ClipObjective(
            transformer,
            self.encoder,
            CaptionedFeed(self.clips.loader, self.codec),
            mixing=cast(ClipMixing, aim.mixing),
            shift=shared.flow_shift if aim.shift is None else aim.shift,
            seed=config.seed,
            caption_dropout=caption_dropout,
            watched=self.watched,
            sheet=self.sheet(),
        )

    def prompts(self, count: int) -> tuple[str, ...]:
        """As for all kinds."""
        found = self.clips.prompts
        return tuple(found[number % len(found)] for number in range(count))

    def save(self, folder: Path, student: SanaVideo, chunks: ChunkSettings, *, final: bool) -> None:
        """As for all kinds."""
        settings, shared = self.settings, self.settings.shared
        _, frames, *sides = self.clips.latents.shape[1:]
        height, width = (side * self.codec.config.compression for side in sides)
        kept = (width, height) == (shared.width, shared.height)
        save_video(
            folder,
            transformer=student,
            autoencoder=cast(WanVAE, self.codec),
            text_encoder=self.encoder,
            flow_shift=shared.flow_shift,
            frames=self.codec.config.frame_rule.frames(frames),
            rate=settings.rate,
            motion=settings.score(),
            negative_prompt=settings.negative_prompt,
            defaults={name: getattr(shared, name) for name in DEFAULTS} | {"width": width, "height": height},
            chunks=chunks,
            dtype="float16" if final and shared.precision == "any" else "float32",
            precision=shared.precision,
            name=f"{shared.name.removesuffix(CAUSAL)}{CAUSAL}",
            licence=shared.licence,
            example_prompts=shared.example_prompts,
            sizes=shared.sizes if kept else (),
        )


def open_taught_clips(
    data: StrPath, cache: Path, source: StrPath, config: TrainConfig, aim: CausalAim
) -> TaughtClips:
    """Open a teacher of whole clips, and clips to train on, which are cached in `cache`.

    Raises SettingsError for a teacher of another kind, and as `open_trained_clips` does.
    """
    check_trainable(source)
    sizes, _ = load_video_configs(source)
    settings = load_video_settings(source)
    if not isinstance(sizes, SanaVideoConfig) or sizes.causal:
        raise SettingsError(
            f"{source} does not draw whole clips with linear attention alone, as the teacher must: use a "
            "SANA-Video model that is not causal."
        )
    device = training_device()
    codec = load_autoencoder(source, device=device, dtype="float32")
    if not isinstance(codec, WanVAE):
        raise SettingsError(
            f"The autoencoder of {source} does not decode chunks as they come: use a model with Wan 2.1's."
        )
    clips = open_trained_clips(
        data,
        cache,
        source,
        batch_size=config.batch_size,
        seed=config.seed,
        resolution=aim.resolution,
        device=device,
    )
    check_length(clips.latents.shape[2], codec.config.frame_rule, aim.chunks.length)
    encoder = load_text_encoder(source, device=device)
    parts = {"source": source, "config": sizes, "settings": settings, "codec": codec}
    return TaughtClips(**parts, encoder=encoder, clips=clips, aim=aim)


def causal_transformer(
    source: StrPath, *, like: SanaVideoConfig | None = None, distilled: bool = True
) -> SanaVideo:
    """Load a transformer to be trained in chunks, float32, on the training's device.

    like: the teacher's sizes, which it must have. distilled: whether a model of few steps may be trained.
    Raises SettingsError for one that does not fit.
    """
    check_trainable(source)
    settings = load_video_settings(source)
    transformer = load_transformer(source, kind="clip", device=training_device(), dtype="float32")
    if not isinstance(transformer, SanaVideo):
        raise SettingsError(
            f"{source} has softmax attention, which sees whole clips: use a SANA-Video model."
        )
    if not distilled and transformer.config.causal and settings.chunks.times is not None:
        raise SettingsError(
            f"{source} is distilled to few steps, which this training would undo: train the model it was "
            "made from."
        )
    own = replace(transformer.config, causal=True)
    if like is not None and own != replace(like, causal=True):
        raise SettingsError(f"{source} has other sizes than its teacher: use a model made from the teacher.")
    transformer.config = own
    return transformer
