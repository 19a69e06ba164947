"""Where the transformer of clips begins: the drawings that pocket knows.

A frame of 64 px has 8 x 8 latents, as many as pocket's image of 256 px, and each stands for the same part of
the image. So pocket's blocks already put things in their places by their words; only what the latents are,
and how they move, is to be learned. pocket has more blocks than fit: those that change their tokens most are
kept, as SANA-1.5 prunes.
"""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.pocket.data.clips.dataset import PocketClips
from sanakit.pocket.data.clips.samples import PACE
from sanakit.pocket.data.encoding import encode_images
from sanakit.text.encoder import TextEncoder
from sanakit.train.surgery.clips_from_images import start_from_images
from sanakit.train.surgery.dense_time import with_time_scale
from sanakit.train.surgery.pruning import block_importance, noised, prune
from sanakit.weights import load_image_autoencoder, load_transformer

MEASURED = 64  # frames to measure the blocks on
PIXELS = 32  # of an image's side to a latent


def begun_from_images(
    source: str | os.PathLike[str],
    config: SanaVideoConfig,
    clips: PocketClips,
    encoder: TextEncoder,
    notes: list[str],
) -> SanaVideo:
    """Return a transformer of clips with the weights of the image model `source`, on a CPU.

    clips: whose frames, enlarged, the blocks are measured on. encoder: the source's, on a CPU. notes: takes
    sentences on what is new in it. Raises SettingsError for sizes that the weights do not fit.
    """
    image = load_transformer(source, kind="image", dtype="float32")
    if image.config.depth > config.depth:
        codec = load_image_autoencoder(source, part="encoder", dtype="float32")
        rows = [number for number, row in enumerate(clips.rows) if row.split == "train"]
        rows = rows[:: -(-len(rows) // MEASURED)]
        side = config.sample_size * PIXELS
        frames = [Image.fromarray(clips.take(row, 0, PACE, 1)[0]) for row in rows]
        frames = [np.asarray(frame.resize((side, side), Image.Resampling.BICUBIC)) for frame in frames]
        latents = encode_images(codec, frames) * codec.config.scaling_factor
        captions = [clips.rows[row].captions[0] for row in rows]
        importance = block_importance(image, noised(latents, captions, encoder))
        image = prune(image, importance, config.depth)
        notes.append(f"{len(importance) - config.depth} of {len(importance)} blocks were left out.")
    image, _ = with_time_scale(image, config.time_scale)
    begun, told = start_from_images(image, config)
    notes.extend(told)
    return begun.requires_grad_(True)
