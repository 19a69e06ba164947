"""Write a model's folder in fewer bits: quantised by a plan, part by part, without a float copy.

A folder says by which plan it was quantised. Such weights cannot learn.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from sanakit.errors import OutputError, SettingsError
from sanakit.quant.plans import find_plan
from sanakit.weights.find.resolve import resolve
from sanakit.weights.layouts.parts import stored_plan
from sanakit.weights.load import load_image_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.save import kept_settings, save_diffusers
from sanakit.weights.settings import load_settings

KEPT = torch.bfloat16  # what is not quantised, where the model has no 16-bit dtype of its own: half the size


def save_quantized(source: str | os.PathLike[str], folder: str | os.PathLike[str], plan: str) -> Path:
    """Quantise a model by a plan and write it as a folder that draws by itself. Returns the folder.

    source: as for `load_transformer`. plan: of `quant.plans.PLANS`.
    Layers outside the plan, and the autoencoder, are stored in 16 bits. Raises SettingsError for a
    plan that there is not, OutputError, and what loading a model raises.
    """
    target = Path(folder).expanduser()
    if target.exists() and target.resolve() == Path(source).expanduser().resolve():
        raise OutputError(f"{folder} is the model itself: write to another folder.")
    find_plan(plan)
    settings = load_settings(source)
    dtype = torch.float16 if settings.precision in ("float16", "any") else KEPT
    return save_diffusers(
        target,
        transformer=load_transformer(source, kind="image", dtype="float32", mapped=True, plan=plan),
        autoencoder=load_image_autoencoder(source, dtype="float32", mapped=True),
        text_encoder=load_text_encoder(source, dtype="float32", mapped=True, plan=plan),
        dtype=dtype,
        plan=plan,
        **kept_settings(replace(settings, name=f"{settings.name}-{plan}")),
    )


def plan_of(source: str | os.PathLike[str]) -> str | None:
    """Return the plan by which a model was quantised, wholly or in part; None for a model in float.

    source: as for `load_transformer`. Raises as that does.
    """
    parts = ("transformer", "text_encoder")
    found = resolve(source, parts)
    plans = [stored_plan(found, part) for part in parts]
    return next((plan.name for plan in plans if plan is not None), None)


def check_frozen(source: str | os.PathLike[str]) -> None:
    """Raise SettingsError for a model beside whose weights nothing can learn: graphs.

    source: as for `load_transformer`. Raises as that does.
    """
    if runtime := resolve(source, ("transformer",)).runtime:
        raise SettingsError(
            f"{source} holds graphs for {runtime}, which cannot be trained: train the model that they were "
            "made of."
        )


def check_trainable(source: str | os.PathLike[str]) -> None:
    """Raise SettingsError for a model whose weights cannot learn: quantised ones, and graphs.

    source: as for `load_transformer`. Raises as that does.
    """
    check_frozen(source)
    if plan := plan_of(source):
        raise SettingsError(
            f"{source} is quantised by the plan {plan}, and weights of few bits cannot be trained: train the "
            f"original model, or widen this one before: sana convert {source} FOLDER --to diffusers."
        )
