"""Encode many images with an autoencoder, and tell how far that is."""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
from torch import Tensor

from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE
from sanakit.train.feeds.images import IndexedImages

BATCH = 16  # images that are encoded at once
TOLD_EVERY = 10.0  # seconds
log = logging.getLogger(__name__)


@torch.no_grad()
def encode_images(codec: DCAE, images: IndexedImages) -> Tensor:
    """Latents (N C H W, unscaled) of N images (256 256 3 uint8 each), on the codec's device.

    Many take minutes: how far it is goes to the log, as information, every ten seconds.
    """
    device, count = next(codec.parameters()).device, len(images)
    latents: list[Tensor] = []
    told = time.monotonic()
    for start in range(0, count, BATCH):
        pictures = to_tensor(np.stack([images[i] for i in range(start, min(start + BATCH, count))]))
        latents.append(codec.encode(pictures.to(device)).contiguous())
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            log.info("Encoding images: %s of %s", f"{min(start + BATCH, count):,}", f"{count:,}")
    return torch.cat(latents)
