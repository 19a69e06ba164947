"""Captions beside a data set: the file `captions.jsonl`, to which captioners and scorers add line by line.

A line is one image: {"key": "a/1.png", "captions": [{"text": ..., "source": ..., "score": ...}]}, and
"scorer": "name" where all of its scores are by that model. A key is what `Source.key` gives. Lines are never
changed, only added, each by one write. So a killed run loses at most one line, and two runs can write at
once. Lines of one image add up: captions are told apart by text and source, and the newest line about a
caption holds.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sanakit.data.read.captions import Caption
from sanakit.errors import DataError, OutputError

SIDECAR = "captions.jsonl"


@dataclass(frozen=True, slots=True)
class Known:
    """A sidecar's entry for one image. scorers: the model that scored each caption, "" if unknown."""

    captions: tuple[Caption, ...] = ()
    scorers: tuple[str, ...] = ()


def sidecar_path(place: str | os.PathLike[str]) -> Path:
    """Return the path of a data set's sidecar: in its folder, or in the folder of its shards.

    place: as for `open_source`. Raises DataError for a data set that has no folder here, one of the Hub.
    """
    text = os.fspath(place)
    if text.startswith("hub:"):
        raise DataError(
            f"{text} is not a local folder, so {SIDECAR} has no place there: choose a file with --output."
        )
    path = Path(text).expanduser()
    if path.is_dir():
        return path / SIDECAR
    while any(sign in os.fspath(path) for sign in "*?[{") and not path.exists():
        path = path.parent  # of a pattern the part before it
    return (path if path.is_dir() else path.parent) / SIDECAR


def read_sidecar(path: Path, ignored: dict[str, str] | None = None) -> dict[str, Known]:
    """Read a sidecar; without one, nothing is known.

    A last line that is damaged is left out: it was being written when its run was killed. ignored: takes its
    name and this reason.
    Raises DataError, which names file and line, for any other line that is not a caption row.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions."
        ) from None
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    found: dict[str, dict[tuple[str, str], tuple[Caption, str]]] = {}
    for number, line in numbered:
        row = _parse(line)
        if row is None:
            if number == numbered[-1][0]:
                if ignored is not None:
                    ignored[f"{path.name}, line {number}"] = (
                        "is not a whole row of captions: it was being written when its run was killed, or is "
                        "mistyped"
                    )
                break
            raise DataError(
                f'{path}, line {number}, is not a row of captions: {{"key": ..., "captions": [{{"text": ..., '
                '"source": ..., "score": ...}]}, with finite scores. Correct or remove the line.'
            )
        key, captions, scorer = row
        known = found.setdefault(key, {})
        for caption in captions:
            if caption.text.strip():
                known[caption.text, caption.source] = (caption, scorer)
    return {
        key: Known(tuple(c for c, _ in known.values()), tuple(scorer for _, scorer in known.values()))
        for key, known in found.items()
    }


def merged(own: Sequence[Caption], known: Known | None) -> tuple[Caption, ...]:
    """Return an image's captions: those that came with it, then those of the sidecar that are new.

    Scores in the sidecar override those that came with the image.
    """
    if known is None:
        return tuple(own)
    newer = {(caption.text, caption.source): caption for caption in known.captions}
    first = {(caption.text, caption.source): caption for caption in own}
    return tuple((first | newer).values())


class SidecarWriter:
    """Adds rows to a sidecar, which is made if it is not there; use it in a `with` statement.

    Raises OutputError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _mend(path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._explain(error) from None

    def add(self, key: str, captions: Iterable[Caption], scorer: str = "") -> None:
        """Add one image's row. scorer: the model that gave all scores."""
        rows = [{"text": c.text, "source": c.source, "score": c.score} for c in captions]
        row: dict[str, Any] = {"key": key, "captions": rows} | ({"scorer": scorer} if scorer else {})
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        try:
            written = self._file.write(
                line
            )  # unbuffered, at the file's end: one call of the system, one line
        except OSError as error:
            raise self._explain(error) from None
        if written != len(line):  # a disk that fills up takes a part; the next writer cuts it off
            raise self._explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def __enter__(self) -> SidecarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def _explain(self, error: OSError) -> OutputError:
        return OutputError(
            f"Captions cannot be written to {self.path}: {error.strerror}. Choose another file with --output."
        )


def _parse(line: bytes) -> tuple[str, list[Caption], str] | None:
    """Return a row's key, captions and scorer, or None if it is not a valid row."""
    try:
        row = json.loads(line)
        captions = [
            Caption(text=one["text"], score=one.get("score"), source=one.get("source") or "")
            for one in row["captions"]
        ]
        key, scorer = row["key"], row.get("scorer") or ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, DataError):
        return None
    numbers = all(isinstance(c.score, int | float | None) for c in captions)
    texts = all(isinstance(text, str) for c in captions for text in (c.text, c.source))
    return (key, captions, scorer) if numbers and texts and isinstance(key, str) else None


def _mend(path: Path) -> None:
    """Make the file end with a complete line: add a missing line break, or cut a partial line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content = file.read()
        body = content.rstrip(b"\n")
        start = body.rfind(b"\n") + 1
        if body[start:].strip() and _parse(body[start:]) is None:
            file.truncate(start)
        elif body and body == content:
            file.write(b"\n")
