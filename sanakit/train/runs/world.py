"""From clips with camera paths to a fine-tuned world model.

Autoencoder and text encoder come from a finished model, as does the transformer. Clips are encoded once, into
a cache that holds their cameras, too (`sana data cache`); the training reads nothing else.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import cast

import torch

from sanakit.data.batches.clip_sampling import video_spec
from sanakit.data.read.source import data_fingerprint
from sanakit.errors import DataError, SettingsError
from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.sana_wm import SanaWM
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.captioned import CaptionedFeed
from sanakit.train.feeds.feed import decoded
from sanakit.train.objectives.velocity import TRANSFORMER, Sheet
from sanakit.train.objectives.world_velocity import WatchedPaths, WorldMixing, WorldObjective
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.runs.finetune import FINETUNED
from sanakit.train.runs.trained_clips import TrainedClips, open_trained_clips
from sanakit.train.state.average import part_of
from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.quantized import check_trainable
from sanakit.weights.save import DEFAULTS
from sanakit.weights.video.settings import ChunkSettings, VideoSettings, load_world_settings
from sanakit.weights.video.world_folder import save_world

CACHE = "cache"  # of the clips, in the run's folder

StrPath = str | os.PathLike[str]


def world_run(
    data: StrPath,
    output: Path,
    source: StrPath,
    config: TrainConfig,
    mixing: WorldMixing,
    *,
    flow_shift: float | None = None,
    resolution: int | None = None,
) -> Run:
    """Train a world model on clips with camera paths; the result is `output`/model.

    data: a folder of clips with a path beside each (`data/batches/camera_paths.py`), which are cached in
    `output`/cache; or such a cache, made for `source`. source: folder or Hub repository of a whole world
    model. flow_shift: of times towards noise, in training; None: the model's own. resolution: in pixels;
    None: the model's own sizes.
    Raises DataError without clips, paths or captions, SettingsError for a quantised model or one distilled to
    few steps, and what opening and loading raise.
    """
    # 1. The model
    check_trainable(source)
    spec = video_spec(source)
    settings = load_world_settings(source)
    if spec.causal and settings.chunks.times is not None:
        raise SettingsError(
            f"{source} is distilled to few steps, which this training would undo: train the model that it "
            "was made from, or say in its sanakit.json that it is not distilled (chunks, times: null)."
        )
    device = training_device()
    transformer = load_transformer(source, kind="world", device=device, dtype="float32")

    # 2. The clips, encoded with their cameras, and those to measure on
    clips, watched = open_paths(data, output / CACHE, source, config, resolution)
    codec = cast(WanVAE | LTX2VAE, load_autoencoder(source, part="both", device=device))  # of a world

    # 3. The objective
    torch.manual_seed(config.seed)
    encoder = load_text_encoder(source, device=device)
    shift = settings.shared.flow_shift if flow_shift is None else flow_shift
    objective = WorldObjective(
        transformer,
        encoder,
        CaptionedFeed(clips.loader, codec),
        mixing=mixing,
        compression=(spec.rule.per_latent, spec.compression),
        shift=shift,
        seed=config.seed,
        watched=[watched],
        sheet=Sheet(
            prompts=(),
            guidance=settings.shared.guidance,
            steps=settings.shared.steps,
            shape=tuple(clips.latents.shape[1:]),
            decode=partial(decoded, codec),
        ),
    )

    # 4. The result
    def finish(folder: Path) -> None:
        trained = SanaWM(transformer.config)  # what was trained may be sharded
        fill_averaged(trained, folder, partial(part_of, name=TRANSFORMER))
        save_trained_world(
            folder / MODEL,
            trained,
            settings,
            codec,
            encoder,
            name=FINETUNED,
            chunks=settings.chunks if spec.causal else None,
        )

    made_with = MadeWith(
        source=source,
        data=data,
        content=data_fingerprint(clips.loader.cache),
        choices={
            "flow_shift": shift,
            "mixing": {"held": mixing.held, "chunk": mixing.chunk, "ways": dict(mixing.ways)},
            "sizes": [list(size) for size in clips.loader.cache.about.sizes],
        },
    )
    return Run(objective, config, finish, clips.notes, made_with)


def open_paths(
    data: StrPath, cache: Path, source: StrPath, config: TrainConfig, resolution: int | None
) -> tuple[TrainedClips, WatchedPaths]:
    """Open clips with camera paths, which are cached in `cache`, and those to measure on.

    Others: as for `world_run`. Raises DataError for clips without cameras, and as `open_trained_clips` does.
    """
    clips = open_trained_clips(
        data,
        cache,
        source,
        batch_size=config.batch_size,
        seed=config.seed,
        resolution=resolution,
        device=training_device(),
        text=True,
    )
    if clips.cameras is None:
        raise DataError(
            f"The cache {data} has no camera paths: make one of clips with paths beside them, for {source}."
        )
    return clips, WatchedPaths("", clips.latents, clips.captions, clips.cameras)


def save_trained_world(
    folder: Path,
    transformer: SanaWM,
    settings: VideoSettings,
    codec: WanVAE | LTX2VAE,
    encoder: TextEncoder,
    *,
    name: str,
    chunks: ChunkSettings | None,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    dtype: str | None = None,
) -> None:
    """Write a trained world with the other parts, and the defaults, of the model that it was made from.

    name: behind that of the model. frames, size: width and height, of clips that it is for; None: the
    model's. dtype: to store in; None: the model's own, bfloat16 where any will do.
    """
    shared = settings.shared
    usual = (shared.width, shared.height)
    width, height = size or usual
    save_world(
        folder,
        transformer=transformer,
        autoencoder=codec,
        text_encoder=encoder,
        flow_shift=shared.flow_shift,
        frames=settings.frames if frames is None else frames,
        rate=settings.rate,
        defaults={each: getattr(shared, each) for each in DEFAULTS} | {"width": width, "height": height},
        chunks=chunks,
        negative_prompt=settings.negative_prompt,
        dtype=dtype or ("bfloat16" if shared.precision == "any" else shared.precision),
        name=f"{shared.name.removesuffix(name)}{name}",
        licence=shared.licence,
        example_prompts=shared.example_prompts,
        sizes=shared.sizes if (width, height) == usual else (),
    )
