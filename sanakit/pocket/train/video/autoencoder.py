"""From the data set of clips to a run that trains pocket-video's autoencoder, and to its vae folder.

Shapes: B clips, T frames, S side in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sanakit.errors import DataError, WeightsError
from sanakit.images.image import to_tensor
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from sanakit.pocket.data.clips.dataset import PocketClips, open_clips
from sanakit.pocket.data.clips.samples import FRAMES, PACE
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.clips import Windows
from sanakit.train.objectives.clip_autoencoder import ClipAutoencoderObjective, ClipTerms
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.state.checkpoint import has_checkpoint, last_step
from sanakit.train.surgery.wan_linear_init import start_linear_clips
from sanakit.weights import load_autoencoder, save_autoencoder

PACES = (PACE - 1, PACE, PACE + 1)  # that training shows: slower and faster ones, too
HELD_OUT = 32  # clips to measure on
STARTED_FROM = 48  # clips whose principal components make the linear start
MEASURED_ON = 96  # clips whose latents' mean and deviation the config gets
VAE = "vae"


def video_autoencoder_run(
    data: Path,
    output: Path,
    model: WanVAEConfig,
    config: TrainConfig,
    *,
    terms: ClipTerms,
) -> Run:
    """Train a Wan autoencoder on the clips of the data set, from a linear start.

    The result is `output`/model/vae.
    """
    clips = open_clips(data)
    training = training_weights(clips)
    autoencoder = WanVAE(model)
    if not has_checkpoint(output):
        torch.manual_seed(config.seed)  # of the residual branches' inner layers
        autoencoder = WanVAE(model)
        start_linear_clips(autoencoder, some_windows(clips, training, STARTED_FROM, FRAMES))
    objective = ClipAutoencoderObjective(
        autoencoder.to(training_device()),
        Windows(
            clips,
            training,
            seed=config.seed,
            frames=FRAMES,
            paces=PACES,
        ),
        held_out_clips(clips),
        terms=terms,
    )

    def finish(folder: Path) -> None:
        save_autoencoder(folder / MODEL / VAE, finished_autoencoder(folder, model, measured_windows(clips)))

    made_with = MadeWith(
        data=data,
        content=clips.fingerprint,
        choices={"model": asdict(model), "terms": asdict(terms), "paces": PACES},
    )
    return Run(objective, config, finish, made_with=made_with)


def training_weights(clips: PocketClips) -> np.ndarray:
    """Return how often each clip is drawn, N: all concepts alike, whatever number of skin tones they have."""
    counts = Counter(row.concept for row in clips.rows)
    weights = np.array([(row.split == "train") / counts[row.concept] for row in clips.rows])
    return weights / weights.sum()


def held_out_clips(clips: PocketClips) -> Tensor:
    """Return the beginning of held-out clips, one of each concept, B 3 17 S S in [-1, 1]."""
    chosen: dict[str, int] = {}
    for number, row in enumerate(clips.rows):
        if row.split == "val":
            chosen.setdefault(row.concept, number)
    windows = [clips.take(chosen[concept], 0, PACE, FRAMES) for concept in sorted(chosen)[:HELD_OUT]]
    return _tensors(windows)


def some_windows(clips: PocketClips, weights: np.ndarray, count: int, frames: int) -> Tensor:
    """Return windows of training clips, always the same, each clip at most once: B 3 T S S in [-1, 1]."""
    random = np.random.default_rng(0)
    count = min(count, int((weights > 0).sum()))
    chosen = random.choice(len(weights), count, replace=False, p=weights)
    starts = random.integers(min(clips.lengths), size=count)
    return _tensors(
        [
            clips.take(i, start, PACE, frames)
            for i, start in zip(chosen.tolist(), starts.tolist(), strict=True)
        ]
    )


def _tensors(windows: list[np.ndarray]) -> Tensor:
    return torch.stack([to_tensor(window) for window in windows]).transpose(1, 2).contiguous()


def finished_autoencoder(folder: Path, config: WanVAEConfig, windows: Tensor) -> WanVAE:
    """Return the averaged weights of a run's last checkpoint, normalised for windows of training clips."""
    trained = WanVAE(config)  # what was trained may be sharded
    fill_averaged(trained, folder)
    return normalised_for(trained, windows)


def measured_windows(clips: PocketClips) -> Tensor:
    """Return the windows of training clips that latents are normalised by, B 3 T S S."""
    return some_windows(clips, training_weights(clips), MEASURED_ON, FRAMES)


@torch.no_grad()
def normalised_for(model: WanVAE, windows: Tensor) -> WanVAE:
    """Return an autoencoder with the mean and the deviation of each latent channel of windows, B 3 T S S."""
    latents = torch.cat([model.encode(clip) for clip in windows.split(4)])
    channels = latents.transpose(0, 1).flatten(1)  # C, all places
    mean, deviation = (_rounded(values) for values in (channels.mean(1), channels.std(1)))
    found = WanVAE(replace(model.config, latents_mean=mean, latents_std=deviation))
    found.load_state_dict(model.state_dict())
    return found


def open_autoencoder(place: Path, config: WanVAEConfig, clips: PocketClips, notes: list[str]) -> WanVAE:
    """Return the autoencoder of a run on clips, finished or not; all else as for `open_trained`."""
    return open_trained(place, config, partial(measured_windows, clips), notes)


def open_trained(
    place: Path, config: WanVAEConfig, windows: Callable[[], Tensor], notes: list[str]
) -> WanVAE:
    """Return the autoencoder of a run, finished or not, or of a model's folder.

    config: the sizes of a run that is not finished; windows: returns clips that its latents are normalised
    by; notes takes a sentence on it.
    Raises DataError where there is none, WeightsError for one of another class.
    """
    for folder in (place / MODEL / VAE, place / VAE, place):
        if (folder / "config.json").is_file() and list(folder.glob("*.safetensors")):
            found = load_autoencoder(folder, dtype="float32")
            if not isinstance(found, WanVAE):
                raise WeightsError(
                    f"{folder} is not an autoencoder of Wan's class: give that of another run."
                )
            return found
    if not has_checkpoint(place):
        raise DataError(
            f"{place} holds no autoencoder of clips: train pocket-video-autoencoder first, or name its "
            "folder by --autoencoder."
        )
    notes.append(f"{place} is not finished: the averaged weights of step {last_step(place)} are used.")
    return finished_autoencoder(place, config, windows())


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values.tolist())
