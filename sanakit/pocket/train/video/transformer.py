"""From the data set of clips to a model that draws clips: the run of `pocket-video`.

The transformer is new. It learns from latents of a finished autoencoder, which are encoded once before the
first step, and from the features of pocket's text encoder, which stays as it is. Drawings for made motion and
for steps of images lie in the data set of images beside that of clips.
Shapes: B clips, C latent channels, T frames, S side in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.models.video.wan_config import WanVAEConfig
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.data.clips.dataset import PocketClips, open_clips
from sanakit.pocket.data.clips.pool import build_clip_pool, encode_frames
from sanakit.pocket.data.clips.samples import (
    FRAMES,
    PACE,
    SHARES,
    SHOWN_RATE,
    ClipSample,
    captions_of_sample,
    list_clip_samples,
)
from sanakit.pocket.data.dataset import PocketImages, open_pocket
from sanakit.pocket.data.samples import draw_chances
from sanakit.pocket.train.video.autoencoder import open_autoencoder
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.known_things import known_things
from sanakit.seeds import further_seed
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.feed import Feed, decoded
from sanakit.train.feeds.joint import JointFeed
from sanakit.train.feeds.latents import LatentFeed
from sanakit.train.objectives.clip_velocity import ClipMixing, ClipObjective
from sanakit.train.objectives.velocity import TRANSFORMER, Sheet, Watched
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.state.average import part_of
from sanakit.weights import load_text_encoder
from sanakit.weights.fingerprint import weights_sha256
from sanakit.weights.video.folder import save_video

AUTOENCODER_RUN = "pocket-video-autoencoder"  # the folder beside the run's where none is named
OF_CLIPS = "-clips"  # ending of the data set's folder; that of images has the name without it
WATCHED = 24  # clips of known things, and of things that are held out, to measure on
IMAGES = 2  # which further random numbers choose images
SHEET = (
    *("a cat", "a dog bouncing up and down", "a fish swaying from side to side", "a red heart moving a lot"),
    *("a rocket", "a smiling face", "a sad face", "an apple turning"),
    *("a tree fading in and out", "a car sliding from side to side", "a star", "a ghost bobbing up and down"),
    *("a panda", "fire", "a rabbit bouncing, flat vector", "a rainbow"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoAim:
    """Settings of a run of clips. windows, motions: samples of each thing. defaults: of the model.

    every: 1 for all samples; n takes each n-th, for a trial.
    """

    transformer: SanaVideoConfig
    autoencoder: WanVAEConfig  # of a run that is not finished
    mixing: ClipMixing
    image_share: float  # of the steps, that show images
    shift: float
    windows: int
    motions: int
    every: int
    defaults: Mapping[str, Any]
    example_prompts: Sequence[str]


def video_run(
    data: Path,
    output: Path,
    aim: VideoAim,
    config: TrainConfig,
    *,
    source: str | os.PathLike[str],
    autoencoder: str | os.PathLike[str] | None,
) -> Run:
    """Train a transformer of clips; the result is `output`/model, latents are kept in `output`/pool.

    source: the model whose text encoder it reads. autoencoder: the run that trained it, or a model's folder;
    None: the run beside `output`.
    Raises DataError without the data set or the autoencoder.
    """
    notes: list[str] = []
    clips, drawings = open_clips(data), _drawings(data, notes)
    place = Path(autoencoder) if autoencoder is not None else output.parent / AUTOENCODER_RUN
    codec = open_autoencoder(place, aim.autoencoder, clips, notes).eval().requires_grad_(False)
    samples = list_clip_samples(clips, drawings, windows=aim.windows, motions=aim.motions)
    samples = samples[:: aim.every]
    pool = build_clip_pool(output / "pool", samples, clips, drawings, codec)

    device = training_device()
    torch.manual_seed(config.seed)
    side = clips.side // codec.config.compression
    channels, latents = codec.config.latent_channels, codec.config.frame_rule.latents(FRAMES)
    transformer = SanaVideo(replace(aim.transformer, latent_channels=channels, sample_size=side))
    transformer.init_weights()
    encoder = load_text_encoder(source, device=device, dtype="float32")
    objective = ClipObjective(
        transformer.to(device),
        encoder,
        _feed(samples, pool, clips, drawings, aim.image_share, config.seed),
        mixing=aim.mixing,
        shift=aim.shift,
        seed=config.seed,
        watched=_watched(clips, codec),
        sheet=Sheet(
            prompts=SHEET,
            guidance=aim.defaults["guidance"],
            steps=aim.defaults["steps"],
            shape=(channels, latents, side, side),
            decode=partial(decoded, codec),
        ),
    )

    def finish(folder: Path) -> None:
        trained = SanaVideo(transformer.config)  # what was trained may be sharded
        fill_averaged(trained, folder, partial(part_of, name=TRANSFORMER))
        animated = [row.concept for row in clips.rows if row.split == "train"]
        named = [drawings.rows[one.row].concept for one in samples if drawings and one.kind == "still"]
        save_video(
            folder / MODEL,
            transformer=trained,
            autoencoder=codec,
            text_encoder=encoder,
            flow_shift=aim.shift,
            frames=FRAMES,
            rate=SHOWN_RATE,
            defaults={**aim.defaults, "width": clips.side, "height": clips.side},
            dtype=torch.float16,
            name="pocket-video",
            licence="Apache-2.0",
            example_prompts=aim.example_prompts,
            sizes=[(clips.side, clips.side)],
            known_things=known_things([*animated, *named], encoder, animated=animated),
        )

    choices = {"transformer": asdict(transformer.config), "mixing": asdict(aim.mixing), "shift": aim.shift}
    choices |= {"image_share": aim.image_share, "samples": len(samples)}
    made_with = MadeWith(
        source=source,
        parts={"autoencoder in use": weights_sha256(codec)},
        data=data,
        content=" ".join([clips.fingerprint, *([] if drawings is None else [drawings.fingerprint])]),
        choices=choices,
    )
    return Run(objective, config, finish, tuple(notes), made_with)


def _drawings(data: Path, notes: list[str]) -> PocketImages | None:
    """Open the data set of images beside that of clips. notes: takes a sentence where there is none."""
    folder = data.absolute()
    beside = folder.with_name(folder.name.removesuffix(OF_CLIPS))
    if beside != folder and beside.exists():
        return open_pocket(beside)
    notes.append(
        f"There is no data set of images beside {folder} (such as pocket beside pocket{OF_CLIPS}): only "
        "animated emoji are shown."
    )
    return None


def _feed(
    samples: Sequence[ClipSample],
    pool: Mapping[str, Tensor],
    clips: PocketClips,
    drawings: PocketImages | None,
    image_share: float,
    seed: int,
) -> Feed:
    """Show clips by their shares, and images in some of the steps where there are any."""
    moving = [sample for sample in samples if sample.kind != "still"]
    still = [sample for sample in samples if sample.kind == "still"]

    def feed(some: Sequence[ClipSample], latents: Tensor, chances: np.ndarray, own_seed: int) -> LatentFeed:
        captions = [captions_of_sample(sample, clips, drawings) for sample in some]
        return LatentFeed(latents, captions, torch.from_numpy(chances), seed=own_seed)

    latents = torch.cat([pool[kind] for kind in SHARES if kind in pool])
    moving.sort(key=lambda sample: list(SHARES).index(sample.kind))  # as the pool, each in its order
    shown = feed(moving, latents, draw_chances(moving, SHARES), seed)
    if not still:
        return shown
    images = feed(still, pool["still"], draw_chances(still, {"still": 1.0}), further_seed(seed, IMAGES))
    return JointFeed(shown, images, image_share)


def _watched(clips: PocketClips, codec: WanVAE) -> list[Watched]:
    """Return the beginnings of loops: of common things, and of things that are held out ("unseen_")."""
    first: dict[str, int] = {}
    for number, row in enumerate(clips.rows):
        first.setdefault(row.concept, number)
    common = [number for concept, number in first.items() if concept in COMMON_CONCEPTS]
    unseen = [number for number in first.values() if clips.rows[number].split != "train"]
    watched: list[Watched] = []
    for name, every in (("", common), ("unseen_", unseen)):
        chosen = every[:: max(1, len(every) // WATCHED)][:WATCHED]
        if chosen:
            latents = encode_frames(codec, [clips.take(number, 0, PACE, FRAMES) for number in chosen])
            captions = [clips.rows[number].captions[2] for number in chosen]  # how it moves
            watched.append(Watched(name, codec.normalise(latents), captions))
    return watched
