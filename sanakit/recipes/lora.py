"""Teach a SANA model something by a few images: an adapter (LoRA) beside it; the model stays as it is.

`dreambooth` keeps what the model knows of a class as well, by images of it that the model draws before.
Rate, length and layers of the published sizes are near those of the published script, with all products of
the blocks in place of queries, keys and values alone, and float32 masters. Smaller models, as pocket, have
settings for a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sanakit.adapters.fresh import AdapterSize
from sanakit.errors import SettingsError
from sanakit.recipes.finetune import PUBLISHED_WIDTH, WORKERS
from sanakit.train.config import TrainConfig
from sanakit.train.run import Run
from sanakit.train.runs.adapter import AdapterAim, adapter_run
from sanakit.weights import load_configs

StrPath = str | os.PathLike[str]

LAYERS = "blocks"  # that are changed: published, attention, blocks, or a list of names
RANK = 8
CLASS_IMAGES = 100
PRIOR_WEIGHT = 1.0
SHOWINGS = 200  # of each image, where no number of steps is asked for
FEWEST, MOST = 300, 4000  # steps then

SMALL = TrainConfig(
    steps=FEWEST,
    batch_size=8,
    learning_rate=1e-3,
    warmup_steps=20,
    weight_decay=0.0,
    ema_decay=0.98,
    bf16=True,
    log_every=20,
    evaluate_every=100,
    sheet_every=100,
    checkpoint_every=100,
)
PUBLISHED = TrainConfig(
    steps=FEWEST,
    batch_size=4,
    micro_batch=1,
    learning_rate=1e-4,
    warmup_steps=20,
    weight_decay=0.0,
    ema_decay=0.99,
    bf16=True,
    recompute=True,
    log_every=10,
    evaluate_every=250,
    sheet_every=250,
    checkpoint_every=250,
)


def lora(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    resolution: int | None = None,
    batch_size: int | None = None,
    rank: int = RANK,
    caption: str | None = None,
    repeats: Mapping[str, int] | None = None,
    class_prompts: Sequence[str] = (),
    prior_weight: float = 0.0,
    judge: str | None = None,
    plan: str | None = None,
    smoke: bool = False,
) -> Run:
    """An adapter for `source`. How much of `class_prompts`, if any, the model forgets by it is measured."""
    aim = AdapterAim(
        size=AdapterSize(layers=LAYERS, rank=rank),
        caption=caption,
        repeats=repeats or {},
        class_prompts=tuple(class_prompts),
        class_images=max(1, len(class_prompts)) if smoke else max(CLASS_IMAGES, len(class_prompts)),
        prior_weight=prior_weight,
        judge=judge,
        resolution=resolution,
        plan=plan,
    )
    settings = _settings(source, steps, batch_size, smoke=smoke)
    return adapter_run(data, output, source, settings, aim, workers=0 if smoke else WORKERS)


def dreambooth(
    data: Path,
    output: Path,
    steps: int | None = None,
    *,
    source: StrPath = "pocket",
    resolution: int | None = None,
    batch_size: int | None = None,
    rank: int = RANK,
    caption: str | None = None,
    repeats: Mapping[str, int] | None = None,
    class_prompts: Sequence[str] = (),
    judge: str | None = None,
    plan: str | None = None,
    smoke: bool = False,
) -> Run:
    """The same while the model is kept to its own images of `class_prompts`, of which it needs one at least.

    Raises SettingsError without any.
    """
    if not class_prompts:
        raise SettingsError(
            "dreambooth keeps what the model knows of a class, and none was named: give --class-prompt, such "
            'as "a dog"; or train lora, which keeps nothing.'
        )
    return lora(
        data,
        output,
        steps,
        source=source,
        resolution=resolution,
        batch_size=batch_size,
        rank=rank,
        caption=caption,
        repeats=repeats,
        class_prompts=class_prompts,
        prior_weight=PRIOR_WEIGHT,
        judge=judge,
        plan=plan,
        smoke=smoke,
    )


def _settings(
    source: StrPath, steps: int | None, batch_size: int | None, *, smoke: bool
) -> Callable[[int], TrainConfig]:
    """Return the settings by the number of images: each is shown about `SHOWINGS` times."""
    config = PUBLISHED if load_configs(source)[0].width >= PUBLISHED_WIDTH else SMALL

    def settings(images: int) -> TrainConfig:
        rounds = -(-images // config.batch_size)  # as few batches as hold all images, equally full
        size = -(-images // rounds) if batch_size is None else batch_size
        lasting = min(max(round(SHOWINGS * images / size), FEWEST), MOST) if steps is None else steps
        return config.requested(lasting, size, smoke=smoke)

    return settings
