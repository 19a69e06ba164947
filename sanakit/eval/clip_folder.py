"""Folders of clips to measure: which clips there are, what else lies there, and the reference of each.

Clips are files (MP4, MOV, WebM, Matroska, animated WebP, GIF, APNG) and folders of frames with clip.json,
told by their content. A sentence names all that is left out.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from sanakit.clips.clip import VideoClip
from sanakit.clips.facts import ClipFacts
from sanakit.clips.formats.container import READ
from sanakit.clips.formats.folder import INDEX, is_frame_folder
from sanakit.clips.reading import describe_clip, open_clip
from sanakit.errors import DataError, SettingsError
from sanakit.eval.folder import NAMED, read_image, without_counter
from sanakit.images.formats import DATA_SUFFIXES
from sanakit.weights.find.resolve import INDEX as MODEL_INDEX
from sanakit.weights.find.resolve import OURS

SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".gif")  # of files that can only be meant as clips
_ANIMATED = (".webp", ".png", ".apng")  # of files that may be clips
PROMPT = ".txt"  # of the file beside a clip that says its prompt
_MODEL = (MODEL_INDEX, OURS, "config.json")  # in a model's folder
_AGAIN = "Draw or download it again, or remove it."


@dataclass(frozen=True, slots=True)
class FoundClip:
    """A clip's file or folder of frames. name: its path below the folder that was searched."""

    path: Path
    name: str
    facts: ClipFacts

    @property
    def stem(self) -> str:
        """The name without a file's suffix: what its reference is found by."""
        return _stem(self.path, self.name)


def list_clips(place: str | Path, beside: Sequence[str] = (PROMPT,)) -> tuple[list[FoundClip], list[str]]:
    """Return all clips of a place in the order of their paths, and sentences on what is left out.

    place: a folder, searched to any depth, or a single clip. beside: suffixes of files beside a clip, of its
    name, that belong to it, such as NAME.txt, its prompt. They are passed over, as are names that begin with
    a dot. Raises DataError without clips, and for a damaged one.
    """
    place = Path(place)
    if not place.exists():
        raise DataError(f"{place} does not exist: check the path of the clips.")
    clips, others = [], []
    for path in _entries(place):
        name = path.name if path == place else path.relative_to(place).as_posix()
        facts = _facts(path)
        if facts is None:
            others.append(name)
        else:
            clips.append(FoundClip(path, name, facts))
    if not clips:
        raise DataError(f"{place} holds no clip: use {READ}. A folder of frames states its rate in {INDEX}.")
    known = {f"{clip.stem}{suffix}" for clip in clips for suffix in beside}
    others = [name for name in others if name not in known]
    notes = [f"Left out, as they are not clips: {shortened(others)}."] if others else []
    return clips, notes + _told({clip.name: clip.facts for clip in clips})


def is_place_of_clips(place: str | Path) -> bool:
    """Return whether a place is a clip, or a folder that holds one and is not a model's."""
    place = Path(place)
    if not place.exists() or any((place / name).is_file() for name in _MODEL):
        return False
    return any(_looks_like_clip(path) for path in _entries(place))


def clips_among_images(folder: Path) -> str:
    """Return what the user should know of clips in a folder whose images are measured; "" without any."""
    clips = [one.relative_to(folder).as_posix() for one in _entries(folder) if one.suffix.lower() in SUFFIXES]
    if not clips:
        return ""
    return f"Clips are left out: {shortened(clips)}. Measure them with `sana evaluate {folder}`."


def read_clip(clip: FoundClip, rate: Fraction | None = None) -> VideoClip:
    """Read a clip whole. rate: frames a second to take; None: as stored. Raises DataError with its name."""
    try:
        with open_clip(clip.path) as file:
            return file.read(rate=None if rate == clip.facts.rate else rate)
    except SettingsError as error:
        raise DataError(f"{error} {_AGAIN}") from None


def first_frame(path: Path) -> np.ndarray:
    """Return an image, or a clip's first frame, as H W 3 uint8. Raises DataError with its name."""
    if _facts(path) is None:
        return np.asarray(read_image(path))
    try:
        with open_clip(path) as file:
            return next(file.frames(0, 1))
    except SettingsError as error:
        raise DataError(f"{error} {_AGAIN}") from None


def references_of(
    clips: Sequence[FoundClip], reference: Path, *, images: bool = False
) -> tuple[list[Path], list[str]]:
    """Return the reference of each clip, which has its name without the suffix, and what is not used.

    reference: a folder; cat.mp4 there is the reference of cat.webp, and of cat-1.webp beside no cat-1.
    Or a single clip, that of all. images: whether an image may be one. Raises DataError for a clip without.
    """
    if not reference.exists():
        raise DataError(f"{reference} does not exist: check --reference.")
    whole = reference.is_file() or is_frame_folder(reference)
    there: dict[str, list[Path]] = defaultdict(list)
    entries = {path: _facts(path) for path in _entries(reference)}
    for path, facts in entries.items():
        if facts is not None or (images and path.suffix.lower() in DATA_SUFFIXES):
            there[_stem(path, path.relative_to(reference).as_posix())].append(path)
    found, missing = [], []
    for clip in clips:
        stems = [one for one in (clip.stem, without_counter(clip.stem)) if one in there]
        paths = there[stems[0]] if stems else []
        if whole:
            paths = [path for several in there.values() for path in several]
        if len(paths) > 1:
            raise DataError(
                f"{paths[0]} and {paths[1]} may both be the reference of {clip.name}: remove one."
            )
        if not paths:
            missing.append(clip.name)
        found += paths
    if missing:
        what = "clip or image" if images else "clip"
        raise DataError(
            f"{reference} has no {what} for {len(missing)} of {len(clips)} clips, among them "
            f"{', '.join(missing[:NAMED])}: call the references as the clips are called."
        )
    unused = [path.relative_to(reference).as_posix() for path in entries if path not in found]
    notes = [f"Not used of {reference}: {shortened(unused)}."] if unused else []
    return found, notes + _told(
        {str(path): facts for path, facts in entries.items() if facts and path in found}
    )


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's frames and their names. Raises DataError."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if not p.name.startswith("."))
    whole = hashlib.sha256()
    try:
        for file in files:
            with file.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
            whole.update(f"{file.name if path.is_dir() else ''} {content}\n".encode())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {_AGAIN}") from None
    return whole.hexdigest()


def shortened(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _told(clips: Mapping[str, ClipFacts]) -> list[str]:
    """Return what reading leaves out of clips, by their names: each sentence once."""
    told = defaultdict(list)
    for name, facts in clips.items():
        for note in facts.notes:
            told[note].append(name)
    return [f"{shortened(names)}: {note}" for note, names in told.items()]


def _entries(place: Path) -> Iterator[Path]:
    """Yield the files of a place, in order; a folder of frames is one of them."""
    if place.is_file() or is_frame_folder(place):
        yield place
        return
    for path in _sorted(place):
        if path.is_dir():
            yield from () if path.is_symlink() else _entries(path)
        else:
            yield path


def _looks_like_clip(path: Path) -> bool:
    suffix = path.suffix.lower()
    return path.is_dir() or suffix in SUFFIXES or (suffix in _ANIMATED and _facts(path) is not None)


def _sorted(folder: Path) -> Iterable[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}): check its permissions.") from None


def _facts(path: Path) -> ClipFacts | None:
    """Return the facts of a clip, None for another file. Raises DataError for a damaged clip."""
    try:
        facts = describe_clip(path)
        if facts is None and path.suffix.lower() in SUFFIXES:
            with open_clip(path) as clip:
                return clip.facts
    except SettingsError as error:
        raise DataError(f"{error} {_AGAIN}") from None
    return facts


def _stem(path: Path, name: str) -> str:
    return name.removesuffix(path.suffix) if path.is_file() else name
