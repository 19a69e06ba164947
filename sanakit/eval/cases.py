"""The prompts to draw: a benchmark's published file, or any list of prompts.

PROMPTS.txt      a prompt a line; empty lines and lines that begin with # are left out
PROMPTS.jsonl    an object a line with "prompt", perhaps "name"; all else is kept in `task`, so this is also
                 GenEval's evaluation_metadata.jsonl
META.json        MJHQ-30K's meta_data.json: name -> {"category", "prompt"}
FOLDER of .txt   DPG-Bench's prompts: NAME.txt holds one
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanakit.errors import DataError

MAX_NAME = 100  # characters of a name


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt. name: the beginning of its images' file names.   task: the rest of its row."""

    name: str
    prompt: str
    task: dict[str, Any] = field(default_factory=dict)


def read_cases(place: str | Path, limit: int | None = None) -> list[Case]:
    """Read prompts, in their order.

    Rows without a name are numbered as GenEval numbers its folders: 00000, 00001, ...
    limit: only so many of them, spread evenly, so that a sorted file (GenEval's tasks follow each other) is
    not cut to its first kind; None: all. Raises DataError, naming the file and line.
    """
    place = Path(place)
    try:
        if place.is_dir():
            found = [
                Case(path.stem, path.read_text(encoding="utf-8-sig").strip())
                for path in sorted(place.glob("*.txt"), key=lambda path: _natural(path.stem))
            ]
        else:
            found = list(_rows(place, place.read_text(encoding="utf-8-sig")))
    except UnicodeDecodeError:
        raise DataError(f"{place} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror}): check the path.") from None
    _check(place, found)
    return found if limit is None else _spread(found, limit)


def write_cases(path: Path, cases: Iterable[Case], **settings: Sequence[Any]) -> None:
    """Write cases as a file of prompts for `sana generate --prompts`; settings: a value a case, by column."""
    columns = [dict(zip(settings, values, strict=True)) for values in zip(*settings.values(), strict=True)]
    rows = [
        {"name": case.name, "prompt": case.prompt, **own} for case, own in zip(cases, columns, strict=True)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _rows(path: Path, text: str) -> Iterable[Case]:
    if path.suffix == ".json":
        try:
            rows = json.loads(text)
            return [Case(str(name), row["prompt"], row) for name, row in rows.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{path} is not laid out as MJHQ-30K\'s meta_data.json, name -> {{"category", "prompt"}} '
                f"({type(error).__name__}: {error})."
            ) from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    if path.suffix == ".txt":
        prompts = [line for _, line in lines if line and not line.startswith("#")]
        return [Case(f"{index:05}", prompt) for index, prompt in enumerate(prompts)]
    if path.suffix != ".jsonl":
        raise DataError(
            f"{path} is not a list of prompts: give a .txt, .jsonl or .json file, or a folder of .txt."
        )
    cases = []
    for number, line in lines:
        if line:
            try:
                row = json.loads(line)
                cases.append(Case(str(row.get("name", f"{len(cases):05}")), row["prompt"], row))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f'{path}, line {number}, is not an object with "prompt" ({type(error).__name__}: '
                    f"{error})."
                ) from None
    return cases


def _check(place: Path, cases: Sequence[Case]) -> None:
    """Raise DataError unless there are cases, each with a prompt and its own name, which a file can have."""
    if not cases:
        raise DataError(f"{place} holds no prompt: check the path.")
    seen = set()
    for case in cases:
        if not isinstance(case.prompt, str) or not case.prompt:
            raise DataError(f"{place}: the prompt of {case.name[:40]!r} is {case.prompt!r}, not a text.")
        if not re.fullmatch(rf"\w[\w .+=@-]{{0,{MAX_NAME - 1}}}", case.name):
            raise DataError(f"{place}: the name {case.name[:40]!r} cannot be a file name.")
        if case.name.casefold() in seen:
            raise DataError(f"{place} has the name {case.name!r} twice.")
        seen.add(case.name.casefold())


def _spread(cases: list[Case], limit: int) -> list[Case]:
    if limit < 1:
        raise DataError(f"A limit of {limit} leaves no prompt: use at least 1.")
    count = min(limit, len(cases))
    return [cases[index * len(cases) // count] for index in range(count)]


def _natural(name: str) -> tuple[int, str]:
    """Return a sort key: numbers in order, then other names."""
    return (int(name), "") if name.isdecimal() else (10**18, name)
