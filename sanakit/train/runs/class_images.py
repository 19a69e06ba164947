"""Images of a class, drawn by a model before it is trained: to keep what it knows, or see what it forgets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from sanakit.eval.cases import Case
from sanakit.eval.draw import IMAGES, draw_cases
from sanakit.train.distributed.parallel import current_share
from sanakit.train.runs.images import StrPath, TrainedImages, encoded_few, open_images


def class_images(
    source: StrPath,
    prompts: Sequence[str],
    count: int,
    folder: Path,
    *,
    resolution: int | None,
    own: int,
    loading: dict[str, Any],
) -> TrainedImages:
    """Draw images of prompts in turn, each from a seed of its own, or open those that were drawn before.

    folder: gets them in `drawn/`, with their settings; images of another model or other prompts there are
    refused. loading: of `TextToImage.from_pretrained`. The first of several processes draws.
    Raises what drawing raises.
    """
    cases = [Case(f"{number:05}", prompts[number % len(prompts)]) for number in range(count)]
    drawn, share = folder / "drawn", current_share()
    if share.rank == 0:
        draw_cases(source, cases, drawn, loading=loading)
    if share.world > 1:
        dist.barrier()
    captions = [case.prompt for case in cases]
    images = open_images(
        drawn / IMAGES, folder, source, resolution=resolution, own=own, text=True, captions=captions
    )
    return encoded_few(images, folder / "cache", source, loading.get("plan"))
