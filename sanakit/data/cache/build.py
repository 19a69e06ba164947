"""Make a cache: run the autoencoder, and the text encoder where asked, over all samples of a source.

The plan comes first, from headers alone: samples, buckets, shards and disk space. Then the missing shards are
built one by one. The model decides what the samples are: images, or clips, each from its beginning on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod
from pathlib import Path

import numpy as np
import torch

from sanakit.data.batches.buckets import Buckets, fill_buckets
from sanakit.data.batches.camera_paths import PosedClips
from sanakit.data.batches.clip_buckets import ClipSampling, fill_clip_buckets
from sanakit.data.batches.clip_sampling import ClipOptions, sampled_clips
from sanakit.data.batches.loader import NO_CAPTION
from sanakit.data.cache.about import ABOUT, About, CachedClips, Maker, Shard
from sanakit.data.cache.encode import Task, encode_part, read_ahead
from sanakit.data.cache.store import (
    LATENTS,
    TEXT,
    Cache,
    CachedImage,
    begun,
    has_shard,
    held_cache,
    is_cache,
    write_shard,
)
from sanakit.data.medium import IMAGES
from sanakit.data.read.index import scan
from sanakit.data.read.open import open_source
from sanakit.data.read.source import Source
from sanakit.dialect import USUAL
from sanakit.errors import DataError, OutputError, SettingsError
from sanakit.models.contracts import VideoCodecConfig
from sanakit.models.dc_ae import DCAE, DCAEConfig
from sanakit.pipelines.memory import choose_device
from sanakit.text.encoder import TextEncoder
from sanakit.weights import load_autoencoder, load_configs, load_text_encoder
from sanakit.weights.fingerprint import weights_sha256
from sanakit.weights.layouts.video_vae import VideoVAE

SHARD = 200_000_000  # bytes, about: what a run that is killed loses at most, and what is in memory at once
SAMPLED = 500  # images whose captions are counted for the estimate
INDEX = "pictures.npz"  # the scan of the source

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePlan:
    """The contents of a cache before anything is encoded.

    model: as named. captions: estimated number; tokens: estimated length; 0 without text.
    latent_bytes, text_bytes: of the whole cache, about.   free_bytes: of the target folder.
    """

    folder: Path
    model: str
    source: Source
    buckets: Buckets
    about: About
    captions: int
    tokens: float
    latent_bytes: int
    text_bytes: int
    free_bytes: int
    quantised: str | None = None  # the plan by which the text encoder is
    notes: tuple[str, ...] = ()  # sentences on settings that were changed to fit the model

    @property
    def missing(self) -> list[Shard]:
        """Return the shards that are still missing."""
        return [shard for shard in self.about.shards if not has_shard(self.folder, shard)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """The result of a build. kept: images in shards from an earlier run. broken: by name -> reason, found in
    headers or in decoding.   left_out: sound images, but too small, too narrow or too short.   ignored: what
    else the source holds and is not used.   cut: sentences about captions that were too long.   notes: what
    is lost of clips in the cache, by name."""

    folder: Path
    pictures: int
    kept: int
    shards: int
    size: int  # bytes
    broken: dict[str, str]
    left_out: dict[str, str]
    ignored: dict[str, str]
    cut: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    samples: str = "images"  # or clips


def maker_of(model: str | os.PathLike[str], *, text: bool = False) -> Maker:
    """Identify a model's encoders by their weights, for comparison with a cache (`Cache.check`).

    text: of the text encoder too, which has all its weights read: 10 GB of float32 values for Gemma 2 2B.
    The values count, in float32, not the files: an export in another layout or a wider dtype is the same.
    Raises what loading raises.
    """
    return _maker(model, *_mapped(model, text))


def _mapped(model: str | os.PathLike[str], text: bool) -> tuple[DCAE | VideoVAE, TextEncoder | None]:
    """Return the encoders of a model, mapped: next to nothing is read."""
    autoencoder = load_autoencoder(model, part="encoder", dtype="float32", mapped=True)
    return autoencoder, load_text_encoder(model, dtype="float32", mapped=True) if text else None


def _maker(model: str | os.PathLike[str], autoencoder: DCAE | VideoVAE, encoder: TextEncoder | None) -> Maker:
    if isinstance(autoencoder, DCAE):
        assert autoencoder.encoder is not None
        encodes, factor = weights_sha256(autoencoder.encoder), autoencoder.config.scaling_factor
    else:
        encodes, factor = _normalised_sha256(autoencoder), 1.0
    return Maker(
        model=os.fspath(model),
        autoencoder=encodes,
        scaling_factor=factor,
        text_encoder=weights_sha256(encoder.model) if encoder else None,
        instruction=encoder.instruction if encoder else "",
        max_tokens=encoder.max_tokens if encoder else 0,
        dialect=encoder.dialect if encoder else USUAL,
    )


def _normalised_sha256(autoencoder: VideoVAE) -> str:
    """Return which weights an encoder of clips has, and how its latents are normalised."""
    channels = autoencoder.config.latent_channels
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float32).expand(2, channels).reshape(2, channels, 1, 1, 1)
    normalised = autoencoder.normalise(ends).double().flatten().tolist()
    return hashlib.sha256(f"{weights_sha256(autoencoder)} {normalised}".encode()).hexdigest()


def plan_cache(
    place: str | os.PathLike[str] | Source,
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str],
    resolution: int | None = None,
    *,
    text: bool = False,
    square: bool = False,
    clips: ClipOptions | None = None,
    quantised: str | None = None,
    progress: OnProgress | None = None,
) -> CachePlan:
    """Plan the cache of a source; only the scan of its headers is written.

    place: an open source, or anything `open_source` opens. folder: of the cache, new or started. model: the
    one whose encoders are used; of a video model, the source's clips are cached. resolution, square: as for
    `fill_buckets`, of clips as for `sampling_of`; None: the model's own. text: features of all captions too.
    clips: choices for a video model. quantised: the plan by which the text encoder is quantised, as the model
    that learns of the cache has it.
    progress: called with (what is being done, how many are done, how many there are).
    Raises DataError for a source without usable images or a folder with other files, OutputError without disk
    space, and the errors of loading the model. SettingsError for choices of clips with a model of images.
    """
    folder = Path(folder).expanduser()
    _check_folder(folder)
    autoencoder, encoder = _mapped(model, text)
    config, notes = autoencoder.config, []
    sampling = None
    if isinstance(autoencoder, DCAE):
        if clips is not None:
            raise SettingsError(f"{model} is a model of images: leave out the settings of clips.")
        source = open_source(place) if isinstance(place, str | os.PathLike) else place
        if resolution is None:
            resolution = load_configs(model)[0].sample_size * config.compression
    else:
        source, sampling = sampled_clips(place, model, clips or ClipOptions(), resolution, notes, square)
        resolution = sampling.resolution
    if (source.medium is IMAGES) != (sampling is None):
        raise DataError(
            f"{model} is not trained on {source.medium.plural}: open the place as the other kind."
        )
    index = scan(source, folder / INDEX, progress=progress)
    if sampling is None:
        buckets = fill_buckets(index, resolution, square=square, multiple=config.compression)
    else:
        buckets = fill_clip_buckets(index, sampling)
    if not len(buckets):
        named = os.fspath(place) if isinstance(place, str | os.PathLike) else "The data set"
        lost = buckets.left_out or index.broken
        first = min(lost)
        raise DataError(
            f"{named} has no usable {source.medium.name} at {resolution} px: {len(index.broken)} of "
            f"{len(index)} are broken, {len(buckets.left_out)} too "
            f"{'small or narrow' if sampling is None else 'small, narrow or short'}. The first one is "
            f"{source.key(first)}: {lost[first].rstrip('.')}."
        )
    captions, tokens = _count(source, buckets, encoder)
    width = encoder.model.config.width if encoder else 0
    text_each = captions * tokens * width * TEXT.itemsize  # bytes an image
    about = About(
        maker=replace(_maker(model, autoencoder, encoder), plan=(text and quantised) or ""),
        resolution=resolution,
        sizes=buckets.sizes,
        latent_channels=config.latent_channels,
        compression=config.compression,
        text_width=width,
        source=index.fingerprint,
        captions=source.captions_fingerprint(),
        pictures=len(source),
        broken={source.key(number): reason for number, reason in index.broken.items()},
        left_out={source.key(number): reason for number, reason in buckets.left_out.items()},
        ignored=dict(source.ignored),
        shards=(),
        notes={} if sampling is None else _notes(source, buckets),
        clips=None if sampling is None or isinstance(config, DCAEConfig) else _sampled(sampling, config),
        cameras=isinstance(source, PosedClips),
    )
    latent_each = [prod(about.latent_shape(size)) * LATENTS.itemsize for size in buckets.sizes]  # a sample
    members = buckets.members
    latent_bytes = sum(each * len(numbers) for each, numbers in zip(latent_each, members, strict=True))
    about = replace(about, shards=_cut(buckets, [each + text_each for each in latent_each]))
    return CachePlan(
        folder=folder,
        model=os.fspath(model),
        source=source,
        buckets=buckets,
        about=begun(folder, about),
        captions=round(captions * len(buckets)),
        tokens=tokens,
        latent_bytes=latent_bytes,
        text_bytes=round(text_each * len(buckets)),
        free_bytes=shutil.disk_usage(folder).free,
        quantised=quantised,
        notes=tuple(notes),
    )


def build_cache(
    plan: CachePlan,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch: int = 16,
    progress: OnProgress | None = None,
) -> Built:
    """Build the missing shards of a plan.

    device, dtype: to compute in, as for `load_transformer`.   batch: images encoded at once; clips are
    encoded one by one.   progress: called with (what is being done, how many images are done, how many there
    are).
    An image that cannot be decoded is recorded as broken, with the reason. Raises NumericsError for latents
    that are not finite, OutputError without disk space or while another process builds this cache, and the
    errors of loading.
    """
    about, total, cut = plan.about, len(plan.buckets), []
    with held_cache(plan.folder, about):
        missing = plan.missing
        kept = total - sum(shard.pictures for shard in missing)
        if missing:
            _check_room(plan, 1 - kept / total)
            place = choose_device(device)
            kind = None if dtype == "auto" else dtype
            autoencoder = load_autoencoder(plan.model, part="encoder", device=place, dtype=kind)
            how = {"device": place, "dtype": kind, "plan": plan.quantised}
            encoder = load_text_encoder(plan.model, **how) if about.text_width else None
            done = kept
            rate = None if about.clips is None else Fraction(about.clips.rate)
            tasks = _tasks(plan, missing, batch if rate is None else 1)
            with closing(read_ahead(plan.source, tasks, rate)) as read:
                for shard in missing:
                    images: list[CachedImage] = []
                    while len(images) < shard.pictures:
                        part = next(read)
                        encode_part(part, autoencoder, encoder, cut)
                        images += [image for image, _ in part]
                        done += len(part)
                        if progress:
                            progress("encoding", done, total)
                    write_shard(plan.folder, shard, about, images)
        cache = Cache(plan.folder)
    return Built(
        folder=plan.folder,
        pictures=len(cache) - len(cache.failed),
        kept=kept,
        shards=len(about.shards),
        size=sum((plan.folder / shard.name).stat().st_size for shard in about.shards),
        broken=about.broken | cache.failed,
        left_out=dict(about.left_out),
        ignored=dict(plan.source.ignored),
        cut=cut,
        notes=dict(about.notes),
        samples=about.samples,
    )


def _notes(source: Source, buckets: Buckets) -> dict[str, str]:
    """Return what is lost of clips in the buckets, and which have no caption, by name."""
    notes: dict[str, str] = {}
    for number in np.concatenate(buckets.members).tolist():
        told = [buckets.notes[number]] if number in buckets.notes else []
        with suppress(DataError, OSError):  # it will be named as broken
            told += [] if source.captions(number) else [NO_CAPTION]
        if told:
            notes[source.key(number)] = " ".join(told)
    return notes


def _sampled(sampling: ClipSampling, config: VideoCodecConfig) -> CachedClips:
    return CachedClips(
        rate=str(sampling.rate),
        lengths=sampling.lengths,
        repeat=sampling.repeat,
        per_latent=config.frame_rule.per_latent,
    )


def _cut(buckets: Buckets, sizes: list[float]) -> tuple[Shard, ...]:
    """Cut each bucket's images into shards. sizes: of each bucket, bytes an image, about."""
    spans = []
    for bucket, (numbers, size) in enumerate(zip(buckets.members, sizes, strict=True)):
        most = max(1, int(SHARD / size))
        spans += [(bucket, min(most, len(numbers) - start)) for start in range(0, len(numbers), most)]
    return tuple(Shard(f"{place:05}.safetensors", *span) for place, span in enumerate(spans))


def _count(source: Source, buckets: Buckets, encoder: TextEncoder | None) -> tuple[float, float]:
    """Estimate the captions per image and the features per caption from a sample."""
    if encoder is None:
        return 0.0, 0.0
    numbers = np.concatenate(buckets.members)
    chosen = numbers[np.linspace(0, len(numbers) - 1, min(SAMPLED, len(numbers))).round().astype(np.int64)]
    lengths, looked_at = [], 0
    for number in chosen.tolist():
        try:
            texts = [caption.text for caption in source.captions(number)]
        except (DataError, OSError):
            continue  # it will be named as broken
        looked_at += 1
        lengths += map(len, encoder.tokenize(texts or [""], notes=[]))
    if not lengths:
        return 1.0, 1.0
    window = encoder.instructed
    skipped = window.first_kept - len(window.prefix)  # tokens that still belong to the instruction
    return len(lengths) / looked_at, 1 + max(sum(lengths) / len(lengths) - skipped, 0)


def _tasks(plan: CachePlan, missing: list[Shard], batch: int) -> Generator[Task]:
    """Yield size and numbers of the images that are encoded together, shard by shard."""
    starts = [0] * len(plan.buckets.sizes)
    wanted = {shard.name for shard in missing}
    for shard in plan.about.shards:
        start = starts[shard.bucket]
        starts[shard.bucket] += shard.pictures
        if shard.name not in wanted:
            continue
        numbers = plan.buckets.members[shard.bucket][start : start + shard.pictures].tolist()
        for first in range(0, len(numbers), batch):
            yield plan.buckets.sizes[shard.bucket], numbers[first : first + batch]


def _check_folder(folder: Path) -> None:
    """Raise DataError for a folder that holds something else, such as the images themselves."""
    ours = (ABOUT, INDEX)
    try:
        foreign = [name for name in os.listdir(folder) if name not in ours and not name.startswith(".")]
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{folder} cannot hold a cache ({error.strerror}): choose another folder.") from None
    if foreign and not is_cache(folder):
        raise DataError(
            f"{folder} holds other files, such as {foreign[0]}: choose a new folder for the cache."
        )


def _check_room(plan: CachePlan, share: float) -> None:
    needed = share * (plan.latent_bytes + plan.text_bytes)
    if needed > plan.free_bytes:
        raise OutputError(
            f"The cache takes about {needed / 1e9:.1f} GB more, and {plan.folder} has "
            f"{plan.free_bytes / 1e9:.1f} GB free: free some space, choose another folder"
            + (", or leave --text out." if plan.text_bytes else ".")
        )
