"""Open a folder, shards or a data set with images or clips; the kind of place is detected.

Nothing has to be prepared, and no index file is needed.
"""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from sanakit.data.medium import CLIPS, IMAGES, Medium
from sanakit.data.read.folder import FolderSource, files_below
from sanakit.data.read.huggingface import hub_source, parquet_source, saved_source
from sanakit.data.read.sidecar import SIDECAR, read_sidecar, sidecar_path
from sanakit.data.read.source import Annotated, Source
from sanakit.data.read.webdataset import TarSource
from sanakit.errors import DataError

HUB = "hub:"
_SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")  # of a saved Hugging Face data set
_KINDS = (
    "(with .txt or .json captions of the same name, or a metadata.jsonl, .csv or .parquet), .tar shards, a "
    "saved Hugging Face data set, .parquet files, or hub:ORGANISATION/NAME"
)


def open_source(
    place: str | os.PathLike[str], medium: Medium = IMAGES, *, frame_rate: Fraction | None = None
) -> Source:
    """Open a place that holds images, or clips.

    place: a folder, a .tar file, a pattern of them ("shards/{000..099}.tar", "shards/*.tar"), a .parquet file
    or pattern, or "hub:organisation/name". medium: what is read there; other files are among `ignored`.
    frame_rate: frames a second of folders of frames that do not say it themselves; None: they are ignored.
    A rate that no folder needs is refused.
    Captions and scores of the place's captions.jsonl are added (see `sidecar`). Raises DataError, which says
    what was found instead, and MissingExtraError for parquet and Hugging Face data sets without the extra
    `train`.
    """
    text = os.fspath(place)
    source = _open(text, medium, frame_rate)
    if frame_rate is not None and not isinstance(source, FolderSource):
        raise DataError(
            f"{text} is not a folder of clips, so no folders of frames are read in it: leave their rate out "
            "(--folder-fps)."
        )
    if isinstance(source, FolderSource) and frame_rate is not None and not source.uses_rate:
        raise DataError(
            f"{text} holds no folder of frames without a rate of its own, so one for all changes nothing: "
            "leave it out (--folder-fps)."
        )
    if not len(source):
        raise DataError(f"{text} holds no {medium.plural}{_instead(source, medium)}: give {_kinds(medium)}.")
    if text.startswith(HUB):
        return source
    ignored: dict[str, str] = {}
    known = read_sidecar(sidecar_path(text), ignored)
    return Annotated(source, known, ignored) if known or ignored else source


def check_apart(place: str | os.PathLike[str], output: Path) -> None:
    """Raise DataError where a run would write into the folder of its images, and then train on its sheets.

    place: as for `open_source`. output: the run's folder.
    """
    folder = Path(place).expanduser()
    if folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
        raise DataError(
            f"The output {output} lies in {folder}, among the images to train on. Images drawn in "
            "training would be trained on: choose an --output beside it."
        )


def expand(pattern: str) -> list[str]:
    """Return the existing files of a pattern with {000..099}, {a,b}, * and ?, sorted; without any, [pattern].

    Of a range in braces every file has to exist: one that is missing is given all the same, and is then an
    error of whoever opens it.
    """
    found: list[str] = []
    for text in _expand_braces(pattern):
        found += (
            sorted(glob.glob(text)) if re.search(r"[*?\[]", text) and not os.path.exists(text) else [text]
        )
    return list(dict.fromkeys(found))


def _expand_braces(text: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        return [text]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span is None:
        parts = match[1].split(",")
    else:
        parts = [str(n).zfill(len(span[1])) for n in range(int(span[1]), int(span[2]) + 1)]
    rest = _expand_braces(text[match.end() :])
    return [text[: match.start()] + part + tail for part in parts for tail in rest]


def _instead(source: Source, medium: Medium) -> str:
    """Return what a place without samples of a medium holds: samples of the other one."""
    other = CLIPS if medium is IMAGES else IMAGES
    found = next((name for name in source.ignored if name.lower().endswith(other.suffixes)), None)
    return "" if found is None else f", but {other.plural} ({found})"


def _kinds(medium: Medium) -> str:
    return f"a folder of {medium.plural} {_KINDS}"


def _open(text: str, medium: Medium, frame_rate: Fraction | None) -> Source:
    if text.startswith(HUB):
        if not text.removeprefix(HUB).strip():
            raise DataError(f"{text} names no data set: write {HUB}organisation/name.")
        return hub_source(text.removeprefix(HUB), medium)
    path = Path(text).expanduser()
    if os.path.isdir(path):  # unlike Path.is_dir, says no to names that no file can have
        return _open_folder(path, medium, frame_rate)
    files = [Path(name) for name in expand(os.fspath(path))]
    if not files:
        raise DataError(f"No file matches {text}: give {_kinds(medium)}.")
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{more} does not exist: give {_kinds(medium)}.")
    # a pipe would be read without end
    if (special := next((file for file in files if not file.is_file()), None)) is not None:
        raise DataError(f"{special} is not a file: give {_kinds(medium)}.")
    if all(_is_tar(file.name) for file in files):
        return TarSource(files, medium=medium)
    if all(_is_parquet(file.name) for file in files):
        return parquet_source(files, medium)
    odd = next(file for file in files if not _is_tar(file.name))
    raise DataError(f"{odd} is not a data set: give {_kinds(medium)}.")


def _open_folder(path: Path, medium: Medium, frame_rate: Fraction | None) -> Source:
    """Open a folder as what it holds: a saved data set, shards, images or clips, or tables."""
    names = {name for name in os.listdir(path) if os.path.isfile(path / name) and name[0] != "."}
    if names & set(_SAVED):
        source = saved_source(path, medium)
        source.ignored |= _others(path, lambda name: name.endswith(".arrow") or name in _SAVED)
        return source
    if any(map(_is_tar, names)):
        return _open_shards(path, medium)
    folder = FolderSource(path, medium, frame_rate)
    if len(folder):
        return folder
    below = sorted(files_below(path, {}))
    if any(map(_is_tar, below)):
        return _open_shards(path, medium)
    tables = [path / name for name in below if _is_parquet(name)]
    if not tables:
        return folder
    source = parquet_source(tables, medium)
    source.ignored |= _others(path, _is_parquet)
    return source


def _open_shards(path: Path, medium: Medium) -> Source:
    """Open the shards of a folder, at any depth. Raises DataError where images or clips lie beside them."""
    below = list(files_below(path, {}))
    shards = sorted(path / name for name in below if _is_tar(name))
    if (loose := next((name for name in below if name.lower().endswith(medium.suffixes)), None)) is not None:
        raise DataError(
            f"{path} holds both shards ({shards[0].relative_to(path)}) and {medium.plural} ({loose}): pass "
            f"the shards as {path / '*.tar'}, or remove them to use the {medium.plural}."
        )
    source = TarSource(shards, path, medium)
    source.ignored |= _others(path, _is_tar)
    return source


def _others(path: Path, is_read: Callable[[str], bool]) -> dict[str, str]:
    """Return the files of a data set's folder that nothing reads, with the reason. is_read: by their name."""
    ignored: dict[str, str] = {}
    for name in files_below(path, ignored):
        if name != SIDECAR and not is_read(posixpath.basename(name)):
            ignored[name] = "is not a part of the data set"
    return ignored


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _is_tar(name: str) -> bool:
    """Return whether a name is a tar file, compressed or not: the reader refuses compressed ones."""
    return (
        re.search(r"\.(tar(\.(gz|bz2|xz|zst|lz4|lzma|z|br))?|tgz|tbz2|txz|tzst)$", name.lower()) is not None
    )
