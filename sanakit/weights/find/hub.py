"""Downloads from the Hugging Face Hub: the only module that downloads anything.

Only the needed files are downloaded: configs, tokenizer and the safetensors of one variant, never pickles.
Files in the local cache are used without a network.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights.read.component import DIFFUSERS, TRANSFORMERS, component_files, select_weights

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTED = ("transformer", "vae", "text_encoder")
KNOWN = "known_things.json"  # the words that a model knows: `text/known_things.py`
TIMEOUT = 10  # seconds to wait for the list of a repository's files
REPO_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def fetch(repo: str, parts: Iterable[str] = PARTS, variant: str | None = None) -> Path:
    """Download the named parts of a Hub repository and return their folder.

    A repository with a single part (`mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers`) gives its folder; an
    official one with a single .pth gives that file.
    variant: the weights to prefer, fp16 or bf16. Raises ModelNotFoundError or WeightsError, in one sentence.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError

    parts = tuple(parts)
    try:
        cached = _from_cache(repo, parts, variant)
        if cached is not None:
            return cached
        names = list(_list_files(repo))
        weights = select_weights(names, variant)
        needed: list[str] = []
        if "model_index.json" in names:
            needed = needed_files(names, parts, variant)
        elif "config.json" in names and weights:  # one part alone: an autoencoder, or a language model
            needed = [name for name in ("config.json", "tokenizer.json") if name in names] + weights
        if needed:
            _check_space(repo, needed)
            return Path(snapshot_download(repo, allow_patterns=needed))
        pickles = [name for name in names if name.endswith(".pth")]
        if len(pickles) == 1:
            _check_space(repo, pickles)
            return Path(hf_hub_download(repo, pickles[0]))
        raise WeightsError(
            f"The Hub repository {repo} is not a diffusers folder (no model_index.json) and holds "
            f"{len(pickles)} official .pth files: download the one you want and pass its path."
        )
    except HFValidationError:
        raise ModelNotFoundError(f"{repo!r} is not a Hub repository name: write organisation/name.") from None
    except (OSError, HTTPError) as error:
        raise _explain(repo, error) from None


def fetch_files(place: str, patterns: Iterable[str]) -> Path:
    """Download the matching files of a Hub repository and return their folder.

    place: organisation/name; an existing local file or folder is returned as it is.
    patterns: of file names, * for any part; pickles are only downloaded if a pattern names them. An earlier
    download that matches every pattern is reused.
    Raises ModelNotFoundError or WeightsError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError
    from huggingface_hub.utils import filter_repo_objects

    if os.path.exists(place):
        return Path(place)
    if not REPO_NAME.fullmatch(place):
        raise ModelNotFoundError(
            f"{place} is not a file or folder here, nor a Hub repository organisation/name."
        )
    patterns = list(patterns)
    try:
        folder = Path(snapshot_download(place, local_files_only=True))
        if all(any(folder.glob(pattern)) for pattern in patterns):
            return folder
    except OSError:
        pass  # not here yet
    try:
        _check_space(place, filter_repo_objects(list(_list_files(place)), allow_patterns=patterns))
        return Path(snapshot_download(place, allow_patterns=patterns))
    except HFValidationError:
        raise ModelNotFoundError(
            f"{place!r} is not a Hub repository name: write organisation/name."
        ) from None
    except (OSError, HTTPError) as error:
        raise _explain(place, error) from None


def found_here(place: str) -> Path | None:
    """Return a local file or folder, or that of an earlier download; None where nothing is here.

    place: as for `fetch_files`. The network is not used.
    """
    from huggingface_hub import snapshot_download

    if os.path.exists(place):
        return Path(place)
    if not REPO_NAME.fullmatch(place):
        return None
    try:
        return Path(snapshot_download(place, local_files_only=True))
    except (OSError, ValueError):  # not here yet; a name that no repository can have
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """A repository of a model in the Hub's cache."""

    repo: str
    path: Path
    bytes: int
    last_used: float  # seconds since 1970
    commits: dict[str, Path]  # what is here of it, and where

    @property
    def whole(self) -> bool:
        """Whether one of the commits has all parts of a model with their weights, or an official .pth."""
        places, variants = self.commits.values(), (None, "fp16", "bf16")
        official = any(path.is_file() for place in places for path in place.rglob("*.pth"))
        return official or any(_has(path, PARTS, kind) for path in places for kind in variants)


def downloads() -> list[Download]:
    """Return the repositories of models in the Hub's cache. The network is not used."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [
        Download(
            repo=one.repo_id,
            path=one.repo_path,
            bytes=one.size_on_disk,
            last_used=one.last_accessed,
            commits={commit.commit_hash: commit.snapshot_path for commit in one.revisions},
        )
        for one in found
        if one.repo_type == "model"
    ]


def delete(download: Download) -> None:
    """Delete a repository from the Hub's cache."""
    from huggingface_hub import scan_cache_dir

    scan_cache_dir().delete_revisions(*download.commits).execute()


def needed_files(names: Iterable[str], parts: Iterable[str], variant: str | None = None) -> list[str]:
    """Choose among a repository's files those that the named parts need.

    >>> needed_files(["model_index.json", "vae/config.json", "vae/model.bin", "a.png"], ["vae"])
    ['model_index.json', 'vae/config.json']
    """
    names = sorted(names)
    chosen = [name for name in names if name in ("model_index.json", "sanakit.json", KNOWN)]
    for part in parts:
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        weights = select_weights(inside, variant, TRANSFORMERS if part == "text_encoder" else DIFFUSERS)
        others = [name for name in inside if "/" not in name and name.endswith((".json", ".model", ".txt"))]
        chosen += [f"{part}/{name}" for name in others + weights]
    return chosen


@cache
def _list_files(repo: str) -> Mapping[str, int]:
    """Return the files of a repository and their bytes, 0 if unknown; requested once per process."""
    from huggingface_hub import HfApi

    files = HfApi().model_info(repo, timeout=TIMEOUT, files_metadata=True).siblings or []
    return {file.rfilename: file.size or 0 for file in files}


def _check_space(repo: str, names: Iterable[str]) -> None:
    """Raise WeightsError where the disk has no room for those of the files that are not here yet."""
    from huggingface_hub import constants, try_to_load_from_cache

    sizes, cache = _list_files(repo), Path(constants.HF_HUB_CACHE)
    new = sum(sizes[name] for name in names if not isinstance(try_to_load_from_cache(repo, name), str))
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if new > free:
        raise WeightsError(
            f"{repo} needs {new / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free in {place}: free space, "
            "or set HF_HOME elsewhere."
        )


def _from_cache(repo: str, parts: tuple[str, ...], variant: str | None) -> Path | None:
    """Return the folder of an earlier download that has all the parts whole, if there is one."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
    except OSError:
        return None
    return folder if _has(folder, parts, variant) else None


def _has(folder: Path, parts: tuple[str, ...], variant: str | None) -> bool:
    """Return whether a download has all the parts whole; one of a single part has that one."""
    if not (folder / "model_index.json").is_file():
        return (folder / "config.json").is_file() and _is_whole(folder, variant)
    return all(
        (folder / part / "tokenizer.json").is_file()
        if part == "tokenizer"
        else (folder / part).is_dir() and (part not in WEIGHTED or _is_whole(folder / part, variant))
        for part in parts
    )


def _is_whole(folder: Path, variant: str | None) -> bool:
    """Return whether all weight files of one part exist."""
    try:
        component_files(folder, variant)
    except WeightsError:
        return False
    return True


def _explain(repo: str, error: Exception) -> ModelNotFoundError | WeightsError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return WeightsError(
            f"The Hub repository {repo} is gated: accept its licence on https://huggingface.co/{repo} with "
            "your account, then log in with `hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFoundError(
            f"There is no file, folder or Hub repository {repo!r} (or it is private): check the spelling; "
            "`sana models` lists the published ones."
        )
    if getattr(error, "errno", None) == 28:
        return WeightsError(
            f"The disk is full: {repo} could not be downloaded. Free space, or set HF_HOME elsewhere."
        )
    return ModelNotFoundError(
        f"{repo!r} is not a local file or folder and could not be fetched from the Hub "
        f"({type(error).__name__}): check the network or use a local model, such as `pocket` "
        "or the path of a folder."
    )
