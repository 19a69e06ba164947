"""From a few images to an adapter (LoRA) for a finished model, which stays as it is, quantised or not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sanakit.adapters.fresh import AdapterSize, fresh_adapter
from sanakit.adapters.save import save_adapter
from sanakit.data.read.source import data_fingerprint
from sanakit.errors import SettingsError
from sanakit.seeds import class_seed
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.objectives.adapter import ADAPTER, AdapterObjective
from sanakit.train.objectives.velocity import VelocityObjective
from sanakit.train.record import MadeWith
from sanakit.train.run import Run, averaged_weights
from sanakit.train.runs.class_images import class_images
from sanakit.train.runs.finetune import ShownImages, show_images, velocity_of
from sanakit.train.runs.images import encoded_few, named_repeats, open_images
from sanakit.train.state.average import part_of
from sanakit.weights import (
    load_clip,
    load_configs,
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
)
from sanakit.weights.quantized import check_frozen, plan_of

StrPath = str | os.PathLike[str]
CLASS = "class"  # folder of the class's images inside a run


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterAim:
    """The settings of an adapter's training besides those of the loop.

    size: of the adapter. caption: of all images; None: their own. repeats: how often the images of a folder
    come in an epoch, by its path in the data.
    class_prompts: of what must not be forgotten. class_images: how many the model draws of them before.
    prior_weight: of the loss on these; 0: it is only measured. judge: a CLIP that scores the class prompts.
    resolution: in pixels; None: the model's own. plan: quantise the model while it is loaded; None: as it is
    stored. Raises SettingsError for what is out of range.
    """

    size: AdapterSize = field(default_factory=AdapterSize)
    caption: str | None = None
    repeats: Mapping[str, int] = field(default_factory=dict)
    class_prompts: tuple[str, ...] = ()
    class_images: int = 100
    prior_weight: float = 1.0
    judge: str | None = None
    resolution: int | None = None
    plan: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.prior_weight < 1e6:
            raise SettingsError(
                f"prior_weight = {self.prior_weight!r}, but it must be a number of at least 0."
            )
        if self.class_images < 1:
            raise SettingsError(f"class_images = {self.class_images!r}, but it must be at least 1.")
        for folder, times in self.repeats.items():
            if not 1 <= times <= 10_000:
                raise SettingsError(f"The folder {folder!r} is repeated {times} times; use 1 to 10,000.")
        for text in (*self.class_prompts, *([] if self.caption is None else [self.caption])):
            if not text.strip():
                raise SettingsError("A caption or a class prompt is empty: write what the images show.")
        if self.judge is not None and not self.class_prompts:
            raise SettingsError("A judge scores prompts of the class: give a class prompt, too.")


def adapter_run(
    data: StrPath,
    output: Path,
    source: StrPath,
    settings: Callable[[int], TrainConfig],
    aim: AdapterAim,
    *,
    workers: int = 0,
) -> Run:
    """Train an adapter on the images of a place; the result is `output`/NAME.safetensors, NAME the folder's.

    data, source, workers: as for `finetune_run`, but that the model may be quantised. settings: of the loop,
    by the number of images. Few images are encoded once, before the first step, with their captions.
    Raises DataError without images or captions to train on, SettingsError for graphs and one-step models, and
    what opening, drawing and loading raise.
    """
    # 1. The model, frozen
    check_frozen(source)
    before, codec_config = load_configs(source)
    if before.guidance_embed:
        raise SettingsError(
            f"{source} is a Sprint model, whose few steps this training does not know: train the adapter for "
            "the model that it was made from."
        )
    device, own = training_device(), before.sample_size * codec_config.compression

    # 2. The images, and those of the class, which the model draws before it is loaded to be trained
    captions = () if aim.caption is None else (aim.caption,)
    images = open_images(
        data, output, source, resolution=aim.resolution, own=own, text=True, captions=captions
    )
    config = settings(len(images.source))
    named = named_repeats(images.source)
    named = {folder: times for folder, times in named.items() if folder not in aim.repeats}
    aim = replace(aim, repeats={**named, **aim.repeats})
    images = replace(encoded_few(images, output / "cache", source, aim.plan), repeats=aim.repeats)
    of_class = None
    if aim.class_prompts:
        loading: dict[str, Any] = {"device": str(device), "plan": aim.plan}
        of_class = class_images(
            source,
            aim.class_prompts,
            aim.class_images,
            output / CLASS,
            resolution=aim.resolution,
            own=own,
            loading=loading,
        )

    # 3. The objective
    codec = load_image_autoencoder(source, part="both", device=device)
    model = load_settings(source)
    torch.manual_seed(config.seed)
    encoder = load_text_encoder(source, device=device, plan=aim.plan)
    dtype = "bfloat16" if config.bf16 and device.type == "cuda" else "float32"
    transformer = load_transformer(source, kind="image", device=device, dtype=dtype, plan=aim.plan)
    shown = show_images(images, output, config, codec, workers=workers)

    def velocity_on(some: ShownImages, seed: int) -> VelocityObjective:
        # A few images without a caption would be what the model draws of none, and guidance leads away from.
        return velocity_of(some, transformer, encoder, codec, model, seed=seed, caption_dropout=0.0)

    prior, loaders = None, [shown.loader]
    if of_class is not None:
        known = show_images(of_class, output / CLASS, config, codec, workers=workers)
        loaders.append(known.loader)
        prior = velocity_on(known, class_seed(config.seed))
    adapter = fresh_adapter(before, aim.size, torch.Generator().manual_seed(config.seed))
    objective = AdapterObjective(
        velocity_on(shown, config.seed),
        adapter,
        prior,
        prior_weight=aim.prior_weight,
        judge=None if aim.judge is None else load_clip(aim.judge, device=device),
    )

    # 4. The result
    def finish(folder: Path) -> None:
        for loader in loaders:
            loader.close()
        shown.report.write()
        trained = objective.trained(part_of(averaged_weights(folder), ADAPTER))
        dtype = "float16" if model.precision == "any" else model.precision
        save_adapter(folder / f"{folder.name}.safetensors", trained, before, dtype=dtype)

    choices = asdict(aim) | {"resolution": shown.images.resolution, "plan": aim.plan or plan_of(source)}
    made_with = MadeWith(
        source=source, data=data, content=data_fingerprint(shown.images.source), choices=choices
    )
    told = [
        f"Images of the folder {folder} come {times} times an epoch, as Kohya's scripts read its name; "
        f"--repeat {folder}=1 shows them once."
        for folder, times in named.items()
    ]
    return Run(objective, config, finish, (*shown.report.write().splitlines(), *told), made_with)
