"""Reference data for the embedded model, small enough to ship: figures can be checked without a data set.

A folder of four files (built by `sanakit.pocket.evaluate.build_reference`; art licences in its metadata):
gallery.safetensors   the `recognition.Gallery` of 200 common concepts; their names and prompts as metadata
known.safetensors     real images of all concepts, in the same space
names.json            names of the common concepts in German, Spanish, French and Chinese (Unicode CLDR)
heldout.webp          lossless sheet of the data set's held-out images, 256 px each, row by row
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sanakit.errors import DataError
from sanakit.images.image import to_tensor
from sanakit.pocket.evaluate.recognition import Gallery
from sanakit.whole import written_whole

FOLDER = Path(__file__).parents[2] / "assets" / "pocket_reference"
GALLERY, HELD_OUT, KNOWN, NAMES = "gallery.safetensors", "heldout.webp", "known.safetensors", "names.json"
SIDE = 256  # pixels of a held-out image
COLUMNS = 12
_TENSORS = {"mean": "mean", "basis": "basis", "pictures": "images", "labels": "labels"}  # in the file: ours


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PocketReference:
    """Real images to measure against, and what to ask for.

    gallery: C concepts.   prompts: C, a concept each.   styled_prompts: C, the same in a named style each.
    held_out: B 3 256 256 in [-1, 1], images of none of the concepts.   sources: packages with licences.
    """

    gallery: Gallery
    prompts: tuple[str, ...]
    styled_prompts: tuple[str, ...]
    held_out: Tensor
    sources: tuple[str, ...]


def load_reference(folder: str | Path = FOLDER) -> PocketReference:
    """Read the reference images, by default those that came with the package.

    Raises DataError if a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        with safe_open(folder / GALLERY, framework="pt") as file:
            texts = json.loads(file.metadata()["reference"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        sheet = np.asarray(Image.open(folder / HELD_OUT).convert("RGB"))
        count = texts["held_out"]
        rows = sheet.reshape(-1, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
        gallery = Gallery(
            mean=tensors["mean"].float(),
            basis=tensors["basis"].float(),
            images=tensors["pictures"].float(),
            labels=tensors["labels"],
            designs=tuple(texts["designs"]),
            artists=tuple(texts["artists"]),
            concepts=tuple(texts["concepts"]),
        )
        return PocketReference(
            gallery=gallery,
            prompts=tuple(texts["prompts"]),
            styled_prompts=tuple(texts["styled_prompts"]),
            held_out=to_tensor(rows[:count]),
            sources=tuple(texts["sources"]),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The reference images in {folder} cannot be read ({error}): install sanakit again."
        ) from error


def save_reference(
    folder: str | Path,
    gallery: Gallery,
    held_out: np.ndarray,
    *,
    prompts: Sequence[str],
    styled_prompts: Sequence[str],
    sources: Sequence[str],
) -> None:
    """Write the two files, each whole or not at all; gallery tensors in half precision.

    held_out: B 256 256 3 uint8.   Others: see Reference.   Raises DataError if the folder cannot be written.
    """
    folder = Path(folder)
    texts = {
        **{name: getattr(gallery, name) for name in ("designs", "artists", "concepts")},
        "prompts": list(prompts),
        "styled_prompts": list(styled_prompts),
        "held_out": len(held_out),
        "sources": list(sources),
    }
    tensors = {name: getattr(gallery, ours).contiguous() for name, ours in _TENSORS.items()}
    tensors = {name: t if name in ("labels", "mean") else t.half() for name, t in tensors.items()}
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(held_out) // COLUMNS) * SIDE), "white")
    for index, image in enumerate(held_out):
        sheet.paste(Image.fromarray(image), (index % COLUMNS * SIDE, index // COLUMNS * SIDE))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / GALLERY) as partial:
            partial.write_bytes(save(tensors, {"reference": json.dumps(texts)}))
        with written_whole(folder / HELD_OUT) as partial:
            sheet.save(partial, "WEBP", lossless=True, method=6)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}): choose another folder.") from error


def load_known(reference: PocketReference, folder: str | Path = FOLDER) -> Gallery:
    """Read the gallery of all concepts that pocket was shown, in the space of the reference's own.

    Raises DataError if it is missing or damaged.
    """
    try:
        with safe_open(Path(folder) / KNOWN, framework="pt") as file:
            texts = json.loads(file.metadata()["known"])
            images, labels = file.get_tensor("pictures").float(), file.get_tensor("labels").long()
        return Gallery(
            mean=reference.gallery.mean,
            basis=reference.gallery.basis,
            images=images,
            labels=labels,
            designs=tuple(texts["designs"]),
            artists=tuple(texts["artists"]),
            concepts=tuple(texts["concepts"]),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The images of all known things in {folder} cannot be read ({error}): install sanakit again."
        ) from error


def load_names(folder: str | Path = FOLDER) -> dict[str, dict[str, str]]:
    """Read CLDR's names of the common concepts: language code -> concept -> its name there.

    Raises DataError if they are missing or damaged.
    """
    try:
        return json.loads((Path(folder) / NAMES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} has no readable {NAMES} ({error}): install sanakit again.") from error


def save_known(folder: str | Path, gallery: Gallery) -> None:
    """Write the gallery of all concepts, whole or not at all, in half precision, without mean and basis.

    Raises DataError if the folder cannot be written.
    """
    texts = {name: getattr(gallery, name) for name in ("designs", "artists", "concepts")}
    tensors = {"pictures": gallery.images.half().contiguous(), "labels": gallery.labels.short()}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with written_whole(Path(folder) / KNOWN) as partial:
            partial.write_bytes(save(tensors, {"known": json.dumps(texts)}))
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}): choose another folder.") from error
