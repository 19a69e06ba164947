"""The models on this disk: those inside this package, of clips and ControlNets too, and downloads.

Nothing is fetched. A download is a model of ours if its name is that of a release, or its index names a
pipeline of the family; other repositories of the Hub's cache are counted, and left alone.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights.find import hub
from sanakit.weights.find.catalog import (
    CATALOG,
    CLIP_MODELS,
    CONTROLNETS,
    clip_models_here,
    recognise,
)
from sanakit.weights.find.hub import Download
from sanakit.weights.find.resolve import CLIPS, INDEX, LEFT_OUT, OURS, PLAIN
from sanakit.weights.read.disk import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelHere:
    """A model on this disk."""

    name: str  # to draw or steer with: a name of ours, or the Hub's organisation/name
    kind: str  # "embedded" or "downloaded"
    path: str
    bytes: int
    last_used: str  # UTC, as ISO 8601; "" of an embedded model
    licence: str  # "" where it is unknown
    whole: bool = True  # False: a download that was interrupted, or of some parts only


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """All models on this disk. others: further repositories in the Hub's cache, and their bytes."""

    models: tuple[ModelHere, ...]
    others: int
    other_bytes: int


def models_here() -> Shelf:
    """Return the models on this disk, embedded ones first, then the downloads by their last use."""
    embedded = [
        _embedded(entry.name, entry.folder, entry.licence)
        for entry in CATALOG.values()
        if entry.folder is not None and entry.folder.is_dir()
    ]
    embedded += [
        _embedded(name, folder, str(read_json(folder / OURS).get("licence", "")))
        for name, folder in ({name: CLIP_MODELS[name] for name in clip_models_here()} | CONTROLNETS).items()
    ]
    cached = sorted(hub.downloads(), key=lambda repo: repo.last_used, reverse=True)
    ours = [repo for repo in cached if _is_ours(repo)]
    others = [repo for repo in cached if repo not in ours]
    return Shelf(
        models=(*embedded, *map(_described, ours)),
        others=len(others),
        other_bytes=sum(repo.bytes for repo in others),
    )


def find_here(name: str) -> ModelHere:
    """Return the model of a name, or of a Hub organisation/name, on this disk. Raises ModelNotFoundError."""
    released = {entry.repo: entry.name for entry in CATALOG.values()}
    for model in models_here().models:
        if model.name == released.get(name, name):
            return model
    raise ModelNotFoundError(f"{name!r} is not on this disk: `sana list` shows what is.")


def remove_model(model: ModelHere) -> int:
    """Delete a download and return the bytes that were freed. Raises WeightsError for an embedded model."""
    if model.kind == "embedded":
        raise WeightsError(f"{model.name} is part of this package and stays: only downloads are removed.")
    for repo in hub.downloads():
        if str(repo.path) == model.path:
            hub.delete(repo)
            return repo.bytes
    raise ModelNotFoundError(f"{model.name!r} is not on this disk any more.")


def _is_ours(repo: Download) -> bool:
    if recognise(repo.repo) is not None:
        return True
    known = (*PLAIN, *CLIPS, *LEFT_OUT)
    indices = [folder / INDEX for folder in repo.commits.values()]
    return any(_class_of(index) in known for index in indices)


def _class_of(index: Path) -> object:
    """Return the pipeline that an index names; "" where there is none, or where it is damaged."""
    with suppress(WeightsError):
        return read_json(index).get("_class_name") if index.is_file() else ""
    return ""


def _embedded(name: str, folder: Path, licence: str) -> ModelHere:
    return ModelHere(
        name=name,
        kind="embedded",
        path=str(folder),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        last_used="",
        licence=licence,
    )


def _described(repo: Download) -> ModelHere:
    entry = next((entry for entry in CATALOG.values() if entry.repo == repo.repo), None)
    return ModelHere(
        name=entry.name if entry else repo.repo,
        kind="downloaded",
        path=str(repo.path),
        bytes=repo.bytes,
        last_used=datetime.fromtimestamp(repo.last_used, UTC).isoformat(timespec="seconds"),
        licence=entry.licence if entry else "",
        whole=repo.whole,
    )
