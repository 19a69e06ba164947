"""The files that images are written to: `fox.png`, a folder, or new names in this one."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sanakit.errors import OutputError
from sanakit.whole import claimed, numbered

if TYPE_CHECKING:
    from sanakit.pipelines.result import Result


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where images go. paths: their files; empty: new names in `folder` are chosen when they are there."""

    folder: Path
    paths: tuple[Path, ...] = ()


def outputs_of(named: str | None, num_images: int) -> Outputs:
    """Return the files to write, `fox.png`, or `fox-1.png`, `fox-2.png`, ... for several images.

    named: a file or a folder; None: this folder. A folder that ends in a slash is made, in one that exists.
    Raises OutputError.
    """
    from sanakit.images.image import FORMATS

    if named is None:
        return Outputs(_writable(Path()))
    if not named:
        raise OutputError("The output's name is empty: name a file or a folder.")
    output = Path(named).expanduser()
    if named.endswith(("/", os.sep)) and not os.path.lexists(output):
        _writable(output.parent)
        output.mkdir()
    if os.path.isdir(output):
        return Outputs(_writable(output))
    if output.suffix.lower() not in FORMATS:
        raise OutputError(
            f"{output} cannot be written: end the name in one of {', '.join(FORMATS)}, or in / for a folder."
        )
    _writable(output.parent)
    paths = tuple(numbered(output, num_images))
    for path in paths:
        if os.path.isdir(path):
            raise OutputError(f"{path} is a folder: give the name of a file.")
    return Outputs(output.parent, paths)


def save_images(
    result: Result, outputs: Outputs, seed: int, *, bare: bool = False, graph: str = ""
) -> list[Path]:
    """Save images and return their files; a file that is replaced is told. Raises OutputError.

    bare: without settings. graph: of ComfyUI, of the image that they were made from: a PNG keeps it.
    """
    from sanakit.images.graphs import WORKFLOW
    from sanakit.images.image import save

    new = claimed(outputs.folder / f"sana-{seed}.png", len(result.metadata))  # by this process alone
    with nullcontext(list(outputs.paths)) if outputs.paths else new as paths:
        for path, image, metadata in zip(paths, result.images, result.metadata, strict=True):
            if outputs.paths and os.path.exists(path):
                print(f"{path} is replaced.", file=sys.stderr)
            png = path.suffix.lower() == ".png"
            kept = {} if bare else metadata | ({WORKFLOW: graph} if graph and png else {})
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                save(image, path, kept)  # pyright: ignore[reportArgumentType] - the default output is PIL
            for warning in told:
                print(f"Warning: {path}: {warning.message}", file=sys.stderr)
    return paths


def _writable(folder: Path) -> Path:
    if not os.path.isdir(folder):  # unlike Path.is_dir, says no to names that no file can have
        raise OutputError(f"The folder {folder} does not exist: create it first or choose another one.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} is not writable: choose another folder.")
    return folder
