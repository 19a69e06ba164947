"""The work of building a cache: samples are read ahead by threads, and encoded.

Shapes: C h w latents of an image, C t h w of a clip; H W pixels, T frames; L text tokens, E text width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from itertools import islice

import torch
from torch import Tensor

from sanakit.data.batches.camera_paths import PosedClips
from sanakit.data.batches.prepare import pixels_of
from sanakit.data.cache.store import LATENTS, TEXT, CachedImage
from sanakit.data.read.source import Source
from sanakit.errors import DataError, NumericsError
from sanakit.images.image import from_levels
from sanakit.models.contracts import VideoCodec
from sanakit.models.dc_ae import DCAE
from sanakit.text.encoder import TextEncoder

THREADS = 8

Task = tuple[tuple[int, ...], list[int]]  # of samples: their size in a bucket, their numbers
ReadSample = tuple[CachedImage, Tensor | None]  # its pixels, uint8 3 H W; None where it is broken


@torch.no_grad()
def latents_of(codec: DCAE | VideoCodec, pixels: Tensor) -> Tensor:
    """Return latents as the transformer sees them, float32 and contiguous, computed in the codec's dtype.

    pixels: B 3 H W in [-1, 1] on its device; latents B C h w, times the scaling factor. Or clips B 3 T H W;
    latents B C t h w, normalised per channel, encoded one by one: a clip fills a device's memory.
    """
    if isinstance(codec, DCAE):
        return codec.encode(pixels).float().contiguous() * codec.config.scaling_factor
    latents = torch.cat([codec.encode(clip) for clip in pixels.split(1)])
    return codec.normalise(latents.float()).contiguous()


@torch.no_grad()
def encode_part(
    part: list[ReadSample],
    autoencoder: DCAE | VideoCodec,
    encoder: TextEncoder | None,
    cut: list[str],
) -> None:
    """Add latents and text features to the sound ones of samples of one size.

    cut: takes sentences about captions that were cut. Raises NumericsError for latents that are not finite.
    """
    sound = [image for image, pixels in part if pixels is not None]
    if not sound:
        return
    weight = next(autoencoder.parameters())
    levels = torch.stack([pixels for _, pixels in part if pixels is not None]).to(weight.device)
    images = from_levels(levels).to(autoencoder.dtype)
    stored = latents_of(autoencoder, images).to("cpu", LATENTS)
    for image, one in zip(sound, stored, strict=True):
        if not one.isfinite().all():
            raise NumericsError(
                f"The latents of {image.key} are not finite in {LATENTS}: the model overflows in "
                f"{autoencoder.dtype}. Use float32 (--dtype float32)."
            )
        image.latents = one
    if encoder is None:
        return
    texts = [[caption.text for caption in image.captions] or [""] for image in sound]
    features = iter(encoder.encode([text for alternatives in texts for text in alternatives], cut))
    for image, alternatives in zip(sound, texts, strict=True):
        image.text = [one.to("cpu", TEXT) for one in islice(features, len(alternatives))]


def read_ahead(
    source: Source, tasks: Generator[Task], rate: Fraction | None = None
) -> Generator[list[ReadSample]]:
    """Read the samples of each task; two more tasks are read while the models work on one.

    rate: frames a second of clips; None: images.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="cache") as pool:
        waiting: deque[list[Future[ReadSample]]] = deque()

        def submit(task: Task) -> None:
            size, numbers = task
            waiting.append([pool.submit(_read, source, number, size, rate) for number in numbers])

        for task in islice(tasks, 3):
            submit(task)
        try:
            while waiting:
                yield [future.result() for future in waiting.popleft()]
                for task in islice(tasks, 1):
                    submit(task)
        finally:
            for future in (future for futures in waiting for future in futures):
                future.cancel()


def _read(source: Source, number: int, size: tuple[int, ...], rate: Fraction | None) -> ReadSample:
    """Return a sample, its captions and pixels, or the defect that training would find."""
    key = source.key(number)
    try:
        captions = source.captions(number)
        pixels = pixels_of(source, number, size, rate)
        cameras = None
        if isinstance(source, PosedClips) and rate is not None:
            cameras = source.cameras(number, size, rate)
    except (DataError, OSError) as error:
        return CachedImage(key, number, failed=str(error)), None
    return CachedImage(key, number, captions, cameras=cameras), pixels
