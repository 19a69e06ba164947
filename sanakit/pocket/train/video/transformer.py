"""From the data set of clips to a model that draws clips: the runs of `pocket-video`.

The transformer begins with pocket's blocks (`begin.py`). It learns from latents of a finished autoencoder,
which are encoded once before the first step, and from the features of pocket's text encoder, which stays as
it is. A first run shows frames alone, which take a fifth of a clip's time: how things look is learned there.
Drawings for made motion and for steps of images lie in the data set of images beside that of clips.
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
from sanakit.pocket.train.video.begin import begun_from_images
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.known_things import known_things
from sanakit.seeds import further_seed
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.feed import Feed, decoded
from sanakit.train.feeds.joint import JointFeed
from sanakit.train.feeds.latents import LatentFeed
from sanakit.train.objectives.clip_velocity import ClipMixing, ClipObjective
from sanakit.train.objectives.velocity import TRANSFORMER, Sheet, Watched
from sanakit.train.record import MadeWith, check_source
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.state.average import part_of
from sanakit.train.state.checkpoint import has_checkpoint, last_step
from sanakit.weights import load_text_encoder, save_transformer
from sanakit.weights.fingerprint import weights_sha256
from sanakit.weights.video.folder import save_video

AUTOENCODER_RUN = "pocket-video-autoencoder"  # the folder beside the run's where none is named
POOL = "pool"  # folder of latents in a run's
IMAGES_RUN = "pocket-video-images"  # the folder beside the run's that it goes on from
IMAGE_SHARES: Mapping[str, float] = {"animated": 0.45, "made": 0.1, "still": 0.45}  # of a run of images
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """Data and finished parts of a run. notes: sentences on them."""

    clips: PocketClips
    drawings: PocketImages | None
    codec: WanVAE
    samples: list[ClipSample]
    pool: Mapping[str, Tensor]
    encoder: TextEncoder
    begun: SanaVideo
    notes: list[str]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """C T S S of a clip's latents."""
        config, side = self.codec.config, self.begun.config.sample_size
        return config.latent_channels, config.frame_rule.latents(FRAMES), side, side


def images_run(
    data: Path,
    output: Path,
    aim: VideoAim,
    config: TrainConfig,
    *,
    source: str | os.PathLike[str],
    autoencoder: str | os.PathLike[str] | None,
) -> Run:
    """Train a transformer of clips on single frames; all else as for `video_run`, which goes on from it."""
    made = _prepared(data, output, aim, source, autoencoder, config.seed, goes_on=False)
    of_images = LatentFeed(*_stills(made), seed=config.seed)
    objective = _objective(made, aim, of_images, config.seed, frames=1)

    def finish(folder: Path) -> None:
        trained = SanaVideo(made.begun.config)
        fill_averaged(trained, folder, partial(part_of, name=TRANSFORMER))
        save_transformer(folder / MODEL, trained)

    made_with = _made_with(made, data, source, {"shift": aim.shift, "shares": dict(IMAGE_SHARES)})
    return Run(objective, config, finish, tuple(made.notes), made_with)


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

    It goes on from the run of images beside `output`, and reads its latents, where there is one.
    source: the model whose text encoder it reads, and whose blocks it begins with. autoencoder: the run that
    trained it, or a model's folder; None: the run beside `output`.
    Raises DataError without the data set or the autoencoder, SettingsError for a source of other sizes, and
    for another one than the run of images began with.
    """
    made = _prepared(data, output, aim, source, autoencoder, config.seed, goes_on=True)
    clips, drawings, samples, encoder = made.clips, made.drawings, made.samples, made.encoder
    feed = _feed(samples, made.pool, clips, drawings, aim.image_share, config.seed)
    objective = _objective(made, aim, feed, config.seed, frames=made.shape[1])

    def finish(folder: Path) -> None:
        trained = SanaVideo(made.begun.config)  # what was trained may be sharded
        fill_averaged(trained, folder, partial(part_of, name=TRANSFORMER))
        animated = [row.concept for row in clips.rows if row.split == "train"]
        named = [drawings.rows[one.row].concept for one in samples if drawings and one.kind == "still"]
        save_video(
            folder / MODEL,
            transformer=trained,
            autoencoder=made.codec,
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

    choices = {"mixing": asdict(aim.mixing), "shift": aim.shift, "image_share": aim.image_share}
    made_with = _made_with(made, data, source, choices)
    return Run(objective, config, finish, tuple(made.notes), made_with)


def _prepared(
    data: Path,
    output: Path,
    aim: VideoAim,
    source: str | os.PathLike[str],
    autoencoder: str | os.PathLike[str] | None,
    seed: int,
    *,
    goes_on: bool,
) -> _Prepared:
    """Open what a run needs, encode its samples, and make the transformer that it begins with.

    seed: of new weights. goes_on: from the run of images beside `output`, where there is one.
    """
    notes: list[str] = []
    clips, drawings = open_clips(data), _drawings(data, notes)
    place = Path(autoencoder) if autoencoder is not None else output.parent / AUTOENCODER_RUN
    codec = open_autoencoder(place, aim.autoencoder, clips, notes).eval().requires_grad_(False)
    samples = list_clip_samples(clips, drawings, windows=aim.windows, motions=aim.motions)
    samples = samples[:: aim.every]
    before = output.parent / IMAGES_RUN
    side = clips.side // codec.config.compression
    sizes = replace(aim.transformer, latent_channels=codec.config.latent_channels, sample_size=side)
    if goes_on and has_checkpoint(before):
        check_source(before, source)
        begun = SanaVideo(sizes)
        fill_averaged(begun, before, partial(part_of, name=TRANSFORMER))
        notes.append(f"It goes on from step {last_step(before)} of {before}.")
    else:
        torch.manual_seed(seed)
        begun = begun_from_images(source, sizes, clips, notes)
    folder = before if (before / POOL).is_dir() else output
    pool = build_clip_pool(folder / POOL, samples, clips, drawings, codec)
    device = training_device()
    return _Prepared(
        clips=clips,
        drawings=drawings,
        codec=codec,
        samples=samples,
        pool=pool,
        encoder=load_text_encoder(source, device=device, dtype="float32"),
        begun=begun.to(device),
        notes=notes,
    )


def _objective(made: _Prepared, aim: VideoAim, feed: Feed, seed: int, frames: int) -> ClipObjective:
    """Return the objective of clips of so many latent frames."""
    channels, _, *sides = made.shape
    watched = [
        Watched(one.name, one.latents[:, :, :frames], one.captions)
        for one in _watched(made.clips, made.codec)
    ]
    sheet = Sheet(
        prompts=SHEET,
        guidance=aim.defaults["guidance"],
        steps=aim.defaults["steps"],
        shape=(channels, frames, *sides),
        decode=partial(decoded, made.codec),
    )
    return ClipObjective(
        made.begun,
        made.encoder,
        feed,
        mixing=aim.mixing if frames > 1 else ClipMixing(),
        shift=aim.shift,
        seed=seed,
        watched=watched,
        sheet=sheet,
    )


def _made_with(
    made: _Prepared, data: Path, source: str | os.PathLike[str], choices: Mapping[str, Any]
) -> MadeWith:
    sets = [made.clips, *([] if made.drawings is None else [made.drawings])]
    sizes = {"transformer": asdict(made.begun.config), "samples": len(made.samples)}
    return MadeWith(
        source=source,
        parts={"autoencoder in use": weights_sha256(made.codec), "begun with": weights_sha256(made.begun)},
        data=data,
        content=" ".join(one.fingerprint for one in sets),
        choices={**sizes, **choices},
    )


def _stills(made: _Prepared) -> tuple[Tensor, list[list[str]], Tensor]:
    """Return the first frames of all samples, their captions, and how often each is drawn."""
    samples = sorted(made.samples, key=lambda sample: list(IMAGE_SHARES).index(sample.kind))  # as the pool
    latents = torch.cat([made.pool[kind][:, :, :1] for kind in IMAGE_SHARES if kind in made.pool])
    captions = [captions_of_sample(sample, made.clips, made.drawings) for sample in samples]
    return latents, captions, torch.from_numpy(draw_chances(samples, IMAGE_SHARES))


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
