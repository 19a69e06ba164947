"""From a folder of images to a trained autoencoder, and from its checkpoint to a diffusers folder.

A run starts from a model's autoencoder, from the run before it, or from scratch. A run from scratch starts as
the best linear codec of the folder's images, which random weights would reach after hours (see
`linear_init`).
Shapes: B images, S side in pixels.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sanakit.data.batches.buckets import fill_buckets
from sanakit.data.batches.loader import Loader
from sanakit.data.batches.order import evenly
from sanakit.data.read.decode import decode
from sanakit.data.read.index import scan
from sanakit.data.read.open import check_apart, open_source
from sanakit.data.read.source import Source
from sanakit.errors import DataError
from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE, DCAEConfig
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.feeds.images import LoadedImages
from sanakit.train.objectives.autoencoder import AutoencoderObjective, Parts, Terms, autoencoder_state
from sanakit.train.record import MadeWith
from sanakit.train.report import writing
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.state.checkpoint import has_checkpoint
from sanakit.train.surgery.linear_init import start_linear
from sanakit.weights import load_image_autoencoder, save_autoencoder
from sanakit.whole import written_whole

HELD_OUT = 32  # images to measure on, or a tenth of the folder if that is fewer
STARTED_FROM = 600  # images, at most, whose principal components make the linear start
INDEX = "pictures.npz"  # what is known of the folder's images, in the run's folder
REPORT = "pictures.txt"  # what became of them
VAE = "vae"


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One phase of an autoencoder's training: what learns from which terms, on images of which size."""

    parts: Parts
    terms: Terms
    resolution: int  # pixels, side of the square whose area all training sizes have about


def folder_run(
    data: str | os.PathLike[str],
    output: Path,
    start: DCAEConfig | str | os.PathLike[str],
    phase: Phase,
    config: TrainConfig,
    *,
    workers: int = 0,
) -> Run:
    """Train an autoencoder on the images of a place.

    data: anything `open_source` opens; some of its images are held out to measure on. start: catalog name,
    folder or file of a model with an autoencoder; or sizes, to start from nothing. workers: processes that
    read images; 0: this one. The result is `output`/model/vae, and `output`/pictures.txt tells what became
    of the images.
    Raises DataError without two images that can be trained on, and what opening and loading raise.
    """
    check_apart(data, output)
    source = open_source(data)
    output.mkdir(parents=True, exist_ok=True)
    index = scan(source, output / INDEX)
    model = DCAE(start) if isinstance(start, DCAEConfig) else load_image_autoencoder(start, dtype="float32")
    multiple = model.config.compression
    buckets = fill_buckets(index, phase.resolution, multiple=multiple)
    numbers = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *buckets.members]))
    held_out = evenly(numbers, min(HELD_OUT, max(1, len(numbers) // 10)))
    reference = _squares(source, held_out, phase.resolution)
    device = training_device()
    loader = Loader(
        source,
        index.without(held_out),
        resolution=phase.resolution,
        batch_size=config.batch_size,
        seed=config.seed,
        workers=workers,
        multiple=multiple,
        device=device,
    )
    if isinstance(start, DCAEConfig) and not has_checkpoint(output):
        learnt = np.sort(np.concatenate(loader.buckets.members))
        start_linear(model, _squares(source, evenly(learnt, STARTED_FROM), phase.resolution))
    torch.manual_seed(config.seed)  # of a discriminator's weights
    objective = AutoencoderObjective(
        model.to(device),
        LoadedImages(loader),
        reference,
        parts=phase.parts,
        terms=phase.terms,
        seed=config.seed,
    )

    def finish(folder: Path) -> None:
        loader.close()
        with writing(folder), written_whole(folder / REPORT) as partial:
            partial.write_text(f"{loader.report()}\n", encoding="utf-8")
        _export(folder, objective)

    scratch = isinstance(start, DCAEConfig)
    made_with = MadeWith(
        source=None if scratch else start, data=data, content=index.fingerprint, choices=asdict(phase)
    )
    return Run(objective, config, finish, made_with=made_with)


def run_before(output: Path, name: str) -> Path:
    """Return the autoencoder of the run `name` beside `output`. Raises DataError if there is none."""
    path = output.parent / name / MODEL / VAE
    if not path.is_dir():
        raise DataError(
            f"{path} is missing: train {name} first, with its --output beside this run's, or name a model to "
            "start from (--source)."
        )
    return path


@torch.no_grad()
def _export(folder: Path, objective: AutoencoderObjective) -> None:
    """Write the averaged weights; the scaling factor is measured again where latents have changed."""
    model = DCAE(objective.autoencoder.config).to(
        objective.reference.device
    )  # what was trained may be sharded
    fill_averaged(model, folder, autoencoder_state)
    if objective.encoder_moves:
        latents = torch.cat([model.encode(part) for part in objective.reference.split(8)])
        config = replace(model.config, scaling_factor=round(1 / latents.std().item(), 5))
        state = model.state_dict()
        model = DCAE(config)
        model.load_state_dict(state)
    save_autoencoder(folder / MODEL / VAE, model)


def _squares(source: Source, numbers: np.ndarray, side: int) -> Tensor:
    """Middles of images, B 3 S S in [-1, 1]; what cannot be decoded is left out."""
    squares = []
    for number in numbers.tolist():
        try:
            squares.append(decode(source.read(number), side, side))
        except (DataError, OSError):
            continue
    if not squares:
        raise DataError(
            f"None of {len(numbers)} images could be read to measure the training on, or to begin it with, "
            f"at {side} px: give more images, or larger ones."
        )
    return to_tensor(torch.stack(squares).permute(0, 2, 3, 1).numpy())
