"""Folders of images to measure: the prompt of each image, and images in the networks' formats.

An image's prompt comes from the first of: a file of prompts (`cases`) whose names are the beginning of
the file's name; `manifest.jsonl` beside it, as `sana generate --prompts` writes it; NAME.txt beside NAME.png.
Shapes: C channels, H W pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import DataError, SettingsError, SizeError
from sanakit.eval.cases import Case
from sanakit.images.image import to_tensor
from sanakit.images.opening import flatten, open_image
from sanakit.pipelines.batch import MANIFEST

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_COUNTER = re.compile(r"[-_]\d+$")  # NAME-1.png, NAME_0003.png: several images of one prompt
NAMED = 3  # files that a message shows


@dataclass(frozen=True, slots=True)
class ImageCase:
    """An image's file and its prompt; case is None if the prompt is unknown."""

    path: Path
    case: Case | None


def list_images(folder: str | Path) -> list[Path]:
    """Return all images below a folder, in the order of their paths. Raises DataError when there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of images: check the path.")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)}): choose another folder.")
    return found


def shown_in(folder: str | Path, cases: Sequence[Case] | None = None) -> list[ImageCase]:
    """Return the images below a folder, each with its prompt.

    cases: what was requested; a case called `cat` finds cat.png, cat-1.png, cat_0003.png and, as GenEval lays
    them out, cat/samples/*.png; other images are left out. None: the prompts lie in the folder.
    Raises DataError when there are no images, or a case has none.
    """
    paths = list_images(folder)
    if cases is None:
        written = _written(Path(folder))
        return [ImageCase(path, written.get(path) or _sidecar(path)) for path in paths]
    by_name = {case.name: case for case in cases}
    shown = [ImageCase(path, case) for path in paths if (case := _case_of(path, by_name)) is not None]
    missing = by_name.keys() - {one.case.name for one in shown if one.case is not None}
    if missing:
        raise DataError(
            f"{folder} has no image for {len(missing)} of {len(by_name)} prompts, among them "
            f"{', '.join(sorted(missing)[:NAMED])}: files are called NAME.png or NAME-1.png, NAME-2.png, ..."
        )
    return shown


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB, upright, on white where it is transparent. Raises DataError with its name."""
    try:
        return flatten(open_image(path, str(path)))
    except (SettingsError, SizeError) as error:
        raise DataError(f"{error} Draw or download it again, or remove it.") from None


def pixels(image: Image.Image, side: int | None = None) -> Tensor:
    """Return an image's values, 3 H W in [-1, 1].

    side: pixels of the middle square that is cut out after the shorter side was brought to it (bicubic,
    filtered); None: as it is.
    """
    if side is not None:
        image = middle_square(image, side)
    return to_tensor(np.array(image, dtype=np.uint8)[None])[0]


def clip_pixels(image: Image.Image, side: int) -> Tensor:
    """Return the middle square as CLIP and BLIP expect it: 3 side side, of mean 0 and std 1."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((pixels(image, side) + 1) / 2 - mean) / std


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """Bring the shorter side to `side` pixels, bicubic, and cut out the middle."""
    scale = side / min(image.size)
    width, height = (max(side, int(length * scale)) for length in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _case_of(path: Path, by_name: dict[str, Case]) -> Case | None:
    """Return the case that a file's name, or that of the folder of its samples, is or begins with."""
    if path.parent.name == "samples":  # whose own names are numbers, as those of cases may be
        return by_name.get(path.parent.parent.name)
    names = (path.stem, _COUNTER.sub("", path.stem))
    return next((by_name[name] for name in names if name in by_name), None)


def _written(folder: Path) -> dict[Path, Case]:
    """Return the entries of the folder's manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {folder / row["file"]: Case(Path(row["file"]).stem, row["prompt"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): pass the prompts with --prompts FILE.") from None


def _sidecar(path: Path) -> Case | None:
    text = path.with_suffix(".txt")
    if not text.is_file():
        return None
    return Case(path.stem, text.read_text(encoding="utf-8", errors="replace").strip())
