"""Draw a benchmark's prompts into a folder; an interrupted run resumes where it stopped.

The drawing is `sana generate --prompts`: the folder gets `prompts.jsonl`, which that command takes too, and
`pictures/` with its manifest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sanakit.errors import OutputError
from sanakit.eval.cases import Case, write_cases
from sanakit.eval.folder import ImageCase
from sanakit.pipelines.batch import draw_group, drawn_by, finished, groups, held, save_all
from sanakit.pipelines.prompt_file import read_prompts
from sanakit.pipelines.request import ModelSpec, check_request
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights.fingerprint import first_digits
from sanakit.weights.settings import load_configs, load_settings

PROMPTS, IMAGES = "prompts.jsonl", "pictures"


def draw_cases(
    model: str | os.PathLike[str],
    cases: Sequence[Case],
    folder: Path,
    *,
    num_images: int = 1,
    seed: int = 0,
    loading: dict[str, Any] | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[ImageCase]:
    """Draw the missing images at the model's own size, steps and guidance; return all images.

    folder: gets `pictures/NAME.png`, or NAME-1.png, NAME-2.png, ...   num_images: of a case.
    seed: of the first image; the next image, of whichever case, has one more ...
    loading: device, dtype, memory of `TextToImage.from_pretrained`.
    Raises OutputError where the folder holds images of other settings or another model, and what drawing
    raises.
    """
    folder = Path(folder)
    place = folder / IMAGES
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(folder, error) from None
    with held(place):
        try:
            seeds = [seed + index * num_images for index in range(len(cases))]
            write_cases(folder / PROMPTS, cases, seed=seeds, num_images=[num_images] * len(cases))
        except OSError as error:
            raise _explain(folder, error) from None
        spec = ModelSpec.of(load_settings(model), *load_configs(model))
        spec = replace(spec, fingerprint=first_digits(model))
        entries = read_prompts(folder / PROMPTS, partial(check_request, spec))
        weights = drawn_by(model, (loading or {}).get("plan"))
        done = finished(entries, place, weights, remedy="Choose another folder (--output).")
        if waiting := groups(entries, done):
            pipe = TextToImage.from_pretrained(model, **(loading or {}))
            drawn = (one for group in waiting for one in draw_group(pipe, group, done))
            total = len(entries) - len(done)
            progress("drawing", 0, total)
            for count, _ in enumerate(save_all(drawn, entries, place, done, weights), start=1):
                progress("drawing", count, total)
    by_line = dict(enumerate(cases, start=1))
    return [ImageCase(place / entry.file, by_line[entry.line]) for entry in entries]


def _explain(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{folder} cannot be written ({error.strerror}): choose another folder.")
