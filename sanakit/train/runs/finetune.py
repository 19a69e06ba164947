"""From captioned pictures to a fine-tuned model: the run, the report on its pictures, the model's folder.

Autoencoder and text encoder come from a finished model; so does the transformer, unless it is to begin with
new weights. It may be trained at another resolution than it was: see `at_resolution`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from sanakit.data.batches.loader import Loader
from sanakit.data.cache.loader import CachedLoader
from sanakit.data.cache.store import Cache, is_cache
from sanakit.data.read.captions import Caption
from sanakit.data.read.decode import decode
from sanakit.data.read.index import Index, scan
from sanakit.data.read.open import check_apart, open_source
from sanakit.data.read.source import Source
from sanakit.errors import DataError, SettingsError
from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import current_share, training_device
from sanakit.train.feeds.cached_data import fitting_cache, measured_on
from sanakit.train.objectives.finetune import TEXT, TRANSFORMER, FinetuneObjective, Reference, decoded
from sanakit.train.report import writing
from sanakit.train.run import MODEL, Run, averaged_weights
from sanakit.train.state.checkpoint import has_checkpoint
from sanakit.weights import (
    load_autoencoder,
    load_configs,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)
from sanakit.weights.save import kept_settings
from sanakit.whole import written_whole

FINETUNED = "-finetuned"
INDEX = "pictures.npz"  # what is known of the pictures' sizes, in the run's folder
REPORT = "report.json"  # what became of them
REFERENCE = 16  # pictures to measure on, at most
HELD_OUT_FROM = 100  # pictures; of fewer, all are trained on, those to measure on, too
COUNTED = 20_000  # pictures whose captions are counted before the training, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """What a fine-tuning changes besides the weights.

    resolution: pixels, side of the square whose area all training sizes have about; None: the model's own.
    positions: give a transformer without positions those that the published 2K and 4K models have.
    flow_shift: of times towards noise, in training and sampling; None: the model's own.
    fresh: begin with new weights of the transformer. train_text: train the text encoder along.
    name: of the result; "": the source's, with "-finetuned".
    """

    resolution: int | None = None
    positions: bool = False
    flow_shift: float | None = None
    fresh: bool = False
    train_text: bool = False
    name: str = ""


def finetune_run(
    data: str | os.PathLike[str],
    output: Path,
    source: str | os.PathLike[str],
    config: TrainConfig,
    aim: Aim,
    *,
    workers: int = 0,
) -> Run:
    """Train a model on the captioned pictures of a place; the result is `output`/model.

    data: anything `open_source` opens, or the folder of a cache made for `source` (`sana data cache`), whose
    resolution is then the training's. source: catalog name or folder of a whole model. workers: processes
    that read pictures; 0: this one. `output`/report.json tells what became of the pictures, from the start.
    Raises DataError without pictures or captions to train on, SettingsError for a one-step model and for a
    resolution that the autoencoder does not fit, and what opening and loading raise.
    """
    before, codec_config = load_configs(source)
    if before.guidance_embed:
        raise SettingsError(
            f"{source} is a Sprint model, distilled to few steps, which this training would undo: train the "
            "model it was made from."
        )
    compression = codec_config.compression
    resolution = aim.resolution or before.sample_size * compression
    device = training_device()
    codec = load_autoencoder(source, part="both", device=device)
    if is_cache(data):
        pictures = fitting_cache(data, source, resolution=aim.resolution, text=not aim.train_text)
        resolution, index = pictures.about.resolution, None
    else:
        check_apart(data, output)
        pictures = open_source(data)
        index = scan(pictures, output / INDEX)
    output.mkdir(parents=True, exist_ok=True)

    def loader_without(numbers: np.ndarray) -> Loader | CachedLoader:
        if isinstance(pictures, Cache):
            return CachedLoader(
                pictures, batch_size=config.batch_size, held_out=numbers, seed=config.seed, device=device
            )
        assert index is not None
        return Loader(
            pictures,
            index.without(numbers),
            resolution=resolution,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=workers,
            multiple=compression,
            device=device,
        )

    loader = loader_without(np.empty(0, np.int64))
    captions = count_captions(pictures, np.concatenate(loader.buckets.members))
    reference, numbers = _reference(pictures, loader, codec)
    held_out = [pictures.key(number) for number in numbers.tolist()]
    if len(loader.buckets) >= HELD_OUT_FROM:
        loader = loader_without(numbers)
    else:
        held_out = []
    known = read_report(output) if has_checkpoint(output) else None
    failed: dict[str, str] = {} if known is None else known["failed"]
    shown = pictures.about.source if isinstance(pictures, Cache) else cast(Index, index).fingerprint
    order = {
        "pictures": shown,
        "resolution": resolution,
        "batch_size": config.batch_size,
        "seed": config.seed,
    }
    notes = order_changes({} if known is None else known.get("order", {}), order)

    def report(more: Mapping[str, str]) -> str:
        failed.update(more)
        return _write_report(output, loader, failed, held_out, captions, order)

    torch.manual_seed(config.seed)
    settings = load_settings(source)
    shift = settings.flow_shift if aim.flow_shift is None else aim.flow_shift
    encoder = load_text_encoder(source, device=device, dtype="float32" if aim.train_text else None)
    changed = at_resolution(before, resolution // compression, positions=aim.positions)
    if aim.fresh:
        transformer = Sana(changed)
        transformer.init_weights()
        transformer.to(device)
    else:
        transformer = load_transformer(source, device=device, dtype="float32")
        transformer.config = changed  # positions are computed, not stored: no weight depends on them
    objective = FinetuneObjective(
        transformer,
        encoder,
        codec,
        loader,
        reference,
        shift=shift,
        seed=config.seed,
        train_text=aim.train_text,
        sheet_guidance=settings.guidance,
        sheet_steps=settings.steps,
        on_failure=report,
    )

    def finish(folder: Path) -> None:
        loader.close()
        report({})
        weights = averaged_weights(folder)
        trained = Sana(changed)
        trained.load_state_dict(_part(weights, TRANSFORMER))
        text = encoder.model
        if aim.train_text:
            text = Gemma2(encoder.model.config)
            text.load_state_dict(_part(weights, TEXT))
        kept = replace(
            settings,
            flow_shift=shift,
            name=aim.name or f"{settings.name.removesuffix(FINETUNED)}{FINETUNED}",
        )
        if resolution != before.sample_size * compression:
            kept = replace(kept, width=resolution, height=resolution, sizes=())
        save_diffusers(
            folder / MODEL,
            transformer=trained,
            autoencoder=codec,
            text_encoder=TextEncoder(text, encoder.tokenizer, encoder.instruction, encoder.max_tokens),
            dtype="float16" if settings.precision == "any" else settings.precision,
            **kept_settings(kept),
        )

    return Run(objective, config, finish, notes=(*notes, *report({}).splitlines()))


def at_resolution(config: SanaConfig, sample_size: int, *, positions: bool = False) -> SanaConfig:
    """Give a transformer's config for another resolution; its weights stay what they are.

    sample_size: side in latents. A model without positions stays so, unless `positions` gives it the fixed
    ones of the published 2K model. Positions that are there are interpolated: the new grid spans the same
    coordinates, more finely. At twice the side, every second place is an old one; 2K becomes 4K.
    """
    scale = config.position_interpolation
    if scale is None:
        scale = 1.0 if positions else None
    else:
        scale *= sample_size / config.sample_size
    return replace(config, sample_size=sample_size, position_interpolation=scale)


def order_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what makes a resumed run meet its pictures in another order than it began with; [] for nothing.

    before, now: what the order follows from; values that were not noted count as unchanged.
    """
    changed = [
        "other pictures" if name == "pictures" else f"{name} {now[name]} instead of {before[name]}"
        for name in now
        if name in before and now[name] != before[name]
    ]
    if not changed:
        return []
    return [
        f"The run goes on with {', '.join(changed)}: batches follow in another order from here on, in which "
        "some pictures come sooner again than others."
    ]


def count_captions(pictures: Source | Cache, numbers: np.ndarray) -> Counter[int]:
    """Count pictures by how many captions they have, over at most 20,000 of them, evenly spread.

    numbers: of the pictures to look at. Raises DataError if none has one.
    """
    chosen = _spread(np.sort(numbers), COUNTED).tolist()
    counted = Counter(len(_captions(pictures, number)) for number in chosen)
    if counted[0] == len(chosen):
        raise DataError(
            f"None of the {len(chosen)} pictures has a caption: write one into a .txt file of the picture's "
            "name, or have them captioned (sana data caption)."
        )
    return counted


def read_report(folder: Path) -> dict[str, Any] | None:
    """What became of a run's pictures, as its report.json says; None without one. Raises DataError."""
    path = folder / REPORT
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): take it away, it is written anew.") from None


def _write_report(
    folder: Path,
    loader: Loader | CachedLoader,
    failed: Mapping[str, str],
    held_out: list[str],
    captions: Counter[int],
    order: Mapping[str, Any],
) -> str:
    """Write the report, on rank 0, and give its summary."""
    found = loader.report()
    found = replace(found, failed=found.failed | dict(failed), uncaptioned=0)
    buckets = zip(loader.buckets.sizes, loader.buckets.members, strict=True)
    sizes = [{"width": w, "height": h, "pictures": len(numbers)} for (h, w), numbers in buckets]
    lines = [str(found)]
    lines += [f"{len(held_out)} pictures are held out to measure on."] if held_out else []
    lines.append(f"Buckets: {', '.join('{width}x{height}: {pictures}'.format(**size) for size in sizes)}.")
    share = f", of {captions.total()} pictures" if captions.total() == COUNTED else ""
    each = ", ".join(f"{count}: {captions[count]}" for count in sorted(captions))
    lines.append(f"Captions per picture{share}: {each}.")
    summary = "\n".join(lines)
    row = {"summary": summary, **asdict(found), "held_out": held_out, "buckets": sizes, "order": order}
    del row["uncaptioned"]  # counts samples of this process; the captions per picture say more
    row["captions_per_picture"] = {str(count): captions[count] for count in sorted(captions)}
    if current_share().rank == 0:
        with writing(folder), written_whole(folder / REPORT) as partial:
            partial.write_text(json.dumps(row, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
    return summary


def _reference(
    pictures: Source | Cache, loader: Loader | CachedLoader, codec: DCAE
) -> tuple[Reference, np.ndarray]:
    """Pictures of the fullest bucket with a caption each, and their numbers. Raises DataError."""
    (height, width), members = max(
        zip(loader.buckets.sizes, loader.buckets.members, strict=True), key=lambda bucket: len(bucket[1])
    )
    looked_at = _spread(members, 2 * REFERENCE)
    if isinstance(pictures, Cache):
        latents, texts, numbers = measured_on(pictures, looked_at, REFERENCE)
        return Reference(decoded(codec, latents), texts, latents), numbers
    found: list[tuple[int, Tensor, str]] = []
    for number in looked_at.tolist():  # some may be broken or lack a caption
        captions = _captions(pictures, number)
        try:
            if captions:
                found.append((number, decode(pictures.read(number), height, width), captions[0].text))
        except (DataError, OSError):
            continue  # the report names it when its turn comes
        if len(found) == REFERENCE:
            break
    if not found:
        raise DataError(
            f"None of the pictures for {width}x{height}, the size that most have, can be read and has a "
            "caption: mend or caption them."
        )
    stacked = torch.stack([picture for _, picture, _ in found]).permute(0, 2, 3, 1).numpy()
    numbers = np.array([number for number, _, _ in found], dtype=np.int64)
    return Reference(to_tensor(stacked), [caption for _, _, caption in found]), numbers


def _captions(pictures: Source | Cache, number: int) -> tuple[Caption, ...]:
    """A picture's captions; damaged ones count as none here, and make the picture fail in training."""
    try:
        return pictures.captions(number)
    except (DataError, OSError):
        return ()


def _spread(numbers: np.ndarray, count: int) -> np.ndarray:
    """`count` of the numbers, evenly spread over them; all where there are no more."""
    return numbers[np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(np.int64)]


def _part(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """One part of a run's weights, under its own names."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
