"""The prompts to draw: a benchmark's published file, or any list of prompts.

PROMPTS.txt      a prompt a line; empty lines and lines that begin with # are left out
PROMPTS.jsonl    an object a line with "prompt", perhaps "name"; all else is kept in `task`, so this is also
                 GenEval's evaluation_metadata.jsonl
META.json        MJHQ-30K's meta_data.json: name -> {"category", "prompt"}
FOLDER of .txt   DPG-Bench's prompts: NAME.txt holds one

Rows without a name are numbered from 0, as GenEval numbers its folders: 00000, 00001, ... Their images may
also have the names that `sana generate --prompts` gives them: 00001-words-of-the-prompt, ...
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sanakit.errors import DataError, SettingsError
from sanakit.pipelines.prompt_file import checked_name, row_name
from sanakit.reading import json_line, named_once, read_text
from sanakit.whole import written_whole


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt.

    name: the beginning of its images' file names.   task: the rest of its row.   generated: the name that
    `sana generate --prompts` gives its images, where that is another one.
    """

    name: str
    prompt: str
    task: dict[str, Any] = field(default_factory=dict)
    generated: str = ""


def read_cases(place: str | Path, limit: int | None = None) -> list[Case]:
    """Read prompts, in their order.

    limit: only so many of them, spread evenly, so that a sorted file (GenEval's tasks follow each other) is
    not cut to its first kind; None: all. Raises DataError, naming the file and line.
    """
    place = Path(place)
    try:
        if place.is_dir():
            found = [
                Case(path.stem, read_text(path).strip())
                for path in sorted(place.iterdir(), key=lambda path: _natural(path.stem))
                if path.suffix.lower() == ".txt"
            ]
        else:
            found = list(_rows(place, read_text(place)))
    except UnicodeDecodeError:
        raise DataError(f"{place} is not UTF-8 text: save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror}): check the path.") from None
    found = _checked(place, found)
    return found if limit is None else _spread(found, limit)


def write_cases(path: Path, cases: Iterable[Case], **settings: Sequence[Any]) -> None:
    """Write cases as a file of prompts for `sana generate --prompts`, whole or not at all. Raises OSError.

    settings: a value a case, by column.
    """
    columns = [dict(zip(settings, values, strict=True)) for values in zip(*settings.values(), strict=True)]
    rows = [
        {"name": case.name, "prompt": case.prompt, **own} for case, own in zip(cases, columns, strict=True)
    ]
    with written_whole(path) as partial:
        partial.write_text("".join(map(json_line, rows)), encoding="utf-8")


def _rows(path: Path, text: str) -> Iterable[Case]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        try:
            rows = json.loads(text, object_pairs_hook=named_once)
            return [Case(str(name), row["prompt"], row) for name, row in rows.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{path} is not laid out as MJHQ-30K\'s meta_data.json, name -> {{"category", "prompt"}} '
                f"({type(error).__name__}: {error})."
            ) from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    if suffix == ".txt":
        prompts = [line for _, line in lines if line and not line.startswith("#")]
        return [_numbered(index, prompt, {}) for index, prompt in enumerate(prompts)]
    if suffix != ".jsonl":
        raise DataError(
            f"{path} is not a list of prompts: give a .txt, .jsonl or .json file, or a folder of .txt."
        )
    cases = []
    for number, line in lines:
        if line:
            try:
                row = json.loads(line, object_pairs_hook=named_once)
                name, prompt = row.get("name"), row["prompt"]
                own = _numbered(len(cases), prompt, row) if name is None else Case(str(name), prompt, row)
                cases.append(own)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f'{path}, line {number}, is not an object with "prompt" ({type(error).__name__}: '
                    f"{error})."
                ) from None
    return cases


def _numbered(index: int, prompt: str, task: dict[str, Any]) -> Case:
    """Return the case of a row without a name. index: of the row, 0 is the first."""
    return Case(f"{index:05}", prompt, task, row_name(index + 1, prompt))


def _checked(place: Path, cases: Sequence[Case]) -> list[Case]:
    """Return the cases, with names as the files of `sana generate --prompts` have them.

    Raises DataError unless there are cases, each with a prompt and its own name, which a file can have.
    """
    if not cases:
        raise DataError(f"{place} holds no prompt: check the path.")
    named: dict[str, Case] = {}  # by their names, as they are compared where case is ignored
    for case in cases:
        if not isinstance(case.prompt, str) or not case.prompt:
            raise DataError(f"{place}: the prompt of {case.name[:40]!r} is {case.prompt!r}, not a text.")
        try:
            name = checked_name(case.name)
        except SettingsError:
            raise DataError(f"{place}: the name {case.name[:40]!r} cannot be a file name.") from None
        if name.casefold() in named:
            raise DataError(f"{place} has the name {case.name!r} twice.")
        named[name.casefold()] = replace(case, name=name)
    return list(named.values())


def _spread(cases: list[Case], limit: int) -> list[Case]:
    if limit < 1:
        raise DataError(f"A limit of {limit} leaves no prompt: use at least 1.")
    count = min(limit, len(cases))
    return [cases[index * len(cases) // count] for index in range(count)]


def _natural(name: str) -> tuple[int, str]:
    """Return a sort key: numbers in order, then other names."""
    return (int(name), "") if name.isdecimal() else (10**18, name)
