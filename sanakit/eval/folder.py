"""Folders of images to measure: the prompt of each image, and images in the networks' formats.

An image's prompt comes from the first of: a file of prompts (`cases`) whose names are the beginning of
the file's name; `manifest.jsonl` beside it, as `sana generate --prompts` writes it; NAME.txt beside NAME.png,
of which the first line counts.
Shapes: C channels, H W pixels.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sanakit.errors import DataError, SettingsError, SizeError
from sanakit.eval.cases import Case
from sanakit.images.formats import DATA_FORMATS, DATA_SUFFIXES
from sanakit.images.image import to_tensor
from sanakit.images.opening import flatten, open_image
from sanakit.pipelines.batch import MANIFEST
from sanakit.reading import read_text, split_lines

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
        if path.suffix.lower() in DATA_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(DATA_SUFFIXES)}): choose another folder.")
    return found


def shown_in(folder: str | Path, cases: Sequence[Case] | None = None) -> list[ImageCase]:
    """Return the images below a folder, each with its prompt.

    cases: what was requested; a case called `cat` finds cat.png, cat-1.png, cat_0003.png and, as GenEval lays
    them out, cat/samples/*.png; other images are left out. None: the prompts lie in the folder.
    Raises DataError when there are no images, a case has none, or an image may be of two cases.
    """
    paths, written = list_images(folder), _written(Path(folder))
    if cases is None:
        return [ImageCase(path, written.get(path) or _sidecar(path)) for path in paths]
    by_name: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        for name in {case.name, case.generated} - {""}:
            by_name[name].append(case)
    shown = []
    for path in paths:
        found = _cases_of(path, by_name, paths)
        if len(found) > 1 and path in written:
            found = [case for case in found if case.prompt == written[path].prompt] or found
        if len(found) > 1:
            raise DataError(
                f"{path} may be an image of {found[0].name!r} or of {found[1].name!r}: rename it, or draw "
                f"with `sana generate --prompts`, whose {MANIFEST} tells which."
            )
        shown += [ImageCase(path, case) for case in found]
    missing = {case.name for case in cases} - {one.case.name for one in shown if one.case is not None}
    if missing:
        raise DataError(
            f"{folder} has no image for {len(missing)} of {len(cases)} prompts, among them "
            f"{', '.join(sorted(missing)[:NAMED])}: files are called NAME.png or NAME-1.png, NAME-2.png, ..."
        )
    return shown


def count_note(shown: Sequence[ImageCase], num_images: int | None) -> str:
    """Return what the user should know where prompts do not have as many images as wanted; "" where all have.

    num_images: wanted for each prompt; None: as many as the prompt that has most.
    """
    counts = Counter(one.case.name for one in shown if one.case is not None)
    wanted = num_images or max(counts.values(), default=0)
    others = [f"{name} ({count})" for name, count in counts.items() if count != wanted]
    if not others:
        return ""
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    images = "one image" if wanted == 1 else f"{wanted} images"
    return (
        f"Not all prompts have {images}: {', '.join(others[:NAMED])}{more}. All images there are measured, "
        "each with the same weight."
    )


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB, upright, on white where it is transparent. Raises DataError with its name."""
    try:
        return flatten(open_image(path, str(path), DATA_FORMATS))
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
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return ((pixels(image, side) + 1) / 2 - mean) / std


def middle_square(image: Image.Image, side: int) -> Image.Image:
    """Bring the shorter side to `side` pixels, bicubic, and cut out the middle."""
    scale = side / min(image.size)
    width, height = (max(side, int(length * scale)) for length in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _cases_of(path: Path, by_name: Mapping[str, list[Case]], images: Collection[Path]) -> list[Case]:
    """Return the cases that a file's name may stand for; several where nothing tells which.

    by_name: cases by their names; of two kinds of numbering, several may share one. images: all of them.
    """
    if path.parent.name == "samples":  # whose own names are numbers, as those of cases may be
        name = path.parent.parent.name
        return [case for case in by_name.get(name, []) if case.name == name]
    base = without_counter(path.stem)
    whole, part = by_name.get(path.stem, []), by_name.get(base, [])
    if not whole or not part or base == path.stem:
        return list(whole or part)
    # cat-1.png is of `cat-1` where `cat` has one image, cat.png; and of `cat` where there is cat-1-1.png
    beside = {one.stem for one in images if one.parent == path.parent}
    single, numbered = (
        base in beside,
        any(without_counter(stem) == path.stem for stem in beside - {path.stem}),
    )
    return [*whole, *part] if single == numbered else list(whole if single else part)


def without_counter(stem: str) -> str:
    """Return a file's name without the number of several images of one prompt: cat for cat-1."""
    return _COUNTER.sub("", stem)


def _written(folder: Path) -> dict[Path, Case]:
    """Return the entries of the folder's manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in split_lines(read_text(path)) if line.strip()]
        return {folder / row["file"]: Case(Path(row["file"]).stem, row["prompt"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): pass the prompts with --prompts FILE.") from None


def _sidecar(path: Path) -> Case | None:
    text = path.with_suffix(".txt")
    if not text.is_file():
        return None
    try:
        prompts = [line.strip() for line in split_lines(read_text(text)) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{text} cannot be read ({error}): save it as UTF-8.") from None
    return Case(path.stem, prompts[0]) if prompts else None
