"""A file of prompts, read and checked as a whole before any work: each row becomes images with their names.

.txt     one prompt a line; empty lines and lines that begin with # are left out
.jsonl   one object a line: "prompt" and any other of COLUMNS; null: the default
.csv     a first line of column names, "prompt" and any other of COLUMNS; an empty cell: the default

Rows are counted from 1, without the lines left out. Missing values are the caller's defaults, else the
model's. `control` names a file of an image to steer by, from the folder of the file of prompts. Names and
seeds depend only on the row, so an interrupted run continues with the same images. Rows added at the end do
not change earlier ones.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from sanakit.errors import SettingsError
from sanakit.images.hints import HintKind
from sanakit.images.image import Metadata, parse_size
from sanakit.images.opening import open_image
from sanakit.pipelines.control import ControlImage
from sanakit.pipelines.request import Request
from sanakit.reading import named_once, read_text

NUMBERS = {
    **{"width": int, "height": int, "steps": int, "guidance": float, "seed": int, "num_images": int},
    "control_scale": float,
}
STEERING = ("control_kind", "control_scale")  # how `control` steers
TEXTS = (
    *("prompt", "negative_prompt", "size", "guidance_kind", "solver", "dialect", "name"),
    *("control", "control_kind"),
)
SWITCHES = ("prompt_weights",)
COLUMNS = (*TEXTS, *NUMBERS, *SWITCHES)
SLUG = 40  # characters of the prompt in a name
MAX_NAME = 200  # bytes; file systems allow 255, of which a number, a suffix and a temporary name need some
NAMED = 3  # faulty rows that the message shows
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.I)  # names that Windows keeps to itself

Values = dict[str, Any]  # of one row: column -> text or number, without those that are to be the default


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredControl:
    """A control image in a file, and how it steers; all but the path as for `ControlImage`."""

    path: str
    kind: HintKind = "as-is"
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def open(self, file: BinaryIO | None = None) -> ControlImage:
        """Decode the image. file: with the same bytes, where the path is another machine's.

        Raises SettingsError, SizeError.
        """
        image = open_image(self.path if file is None else file, self.path)
        return ControlImage(image, kind=self.kind, scale=self.scale, start=self.start, end=self.end)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptImage:
    """One image to draw."""

    file: str  # name in the folder of the results
    line: int  # of the file of prompts where its row ends; 1 is the first
    metadata: Metadata  # its settings, complete, as its file will carry them
    control: StoredControl | None = None  # what steers it


def read_prompts(
    path: str | os.PathLike[str],
    check: Callable[..., Request],
    *,
    seed: int = 0,
    control: StoredControl | None = None,
    **defaults: Any,
) -> list[PromptImage]:
    """Return the images that a file of prompts asks for, in its order.

    check: `check_request` of one model. seed: row n without a seed draws from seed + n - 1, and its further
    images from the seeds after that. defaults: values missing in rows, as arguments of `check`. control:
    likewise, of what steers; a path of "": none.
    Files are called 00001-words-of-the-prompt.png, or by the row's `name`; several of a row get -1, -2, ...
    Raises SettingsError, which tells the first faulty rows with their lines.
    """
    path = Path(path)
    check("", seed=seed, **defaults)  # a fault of theirs is told once, not row by row
    entries: list[PromptImage] = []
    faults: list[str] = []
    last: tuple[StoredControl, ControlImage] | None = None  # rows often share a control image
    lines_of: dict[str, int] = {}  # a name, as it is compared where case is ignored -> its line
    for number, (line, parse) in enumerate(_rows(path), start=1):
        try:
            values = parse()
            name = values.pop("name", None)
            shown = _steering(values, path.parent, control or StoredControl(path=""))
            settings = {**defaults, "seed": seed + number - 1, **_with_sides(values)}
            if shown:
                if last is None or last[0] != shown:
                    last = (shown, shown.open())
                settings["control"] = last[1]
            drawn = check(**settings).metadata
            stem = row_name(number, settings["prompt"]) if name is None else checked_name(name)
            for index, metadata in enumerate(drawn, start=1):
                file = f"{stem}.png" if len(drawn) == 1 else f"{stem}-{index}.png"
                other = lines_of.setdefault(file.casefold(), line)
                if other != line:
                    raise SettingsError(
                        f"its name {file!r} is also used by line {other}: choose another one."
                    )
                entries.append(PromptImage(file=file, line=line, metadata=metadata, control=shown))
        except SettingsError as error:
            faults.append(f"Line {line}: {error}")
    if faults:
        more = f" And {len(faults) - NAMED} more." if len(faults) > NAMED else ""
        what = "one faulty row" if len(faults) == 1 else f"{len(faults)} faulty rows"
        raise SettingsError(f"{path} has {what}; nothing was drawn. {' '.join(faults[:NAMED])}{more}")
    if not entries:
        raise SettingsError(f"{path} holds no prompt: write one per line, or use another file.")
    return entries


def row_name(number: int, prompt: str) -> str:
    """Return the name of the files of a row without a name of its own. number: of the row, 1 is the first.

    >>> row_name(12, "A red apple!")
    '00012-a-red-apple'
    """
    return f"{number:05}{slug(prompt)}"


def _rows(path: Path) -> Iterator[tuple[int, Callable[[], Values]]]:
    """Yield each row's line and what reads it, which raises SettingsError where the row is faulty."""
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".jsonl", ".csv"):
        raise SettingsError(f"{path} is not a file of prompts: use one that ends in .txt, .jsonl or .csv.")
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path} is not UTF-8 text (line {line}): save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path} cannot be read ({reason}): check its name and permissions.") from None
    if suffix == ".csv":
        yield from _csv_rows(path, text)
        return
    for line, words in enumerate(text.split("\n"), start=1):
        words = words.strip()
        if suffix == ".jsonl" and words:
            yield line, lambda words=words: _from_json(words)
        elif suffix == ".txt" and words and not words.startswith("#"):
            yield line, lambda words=words: {"prompt": words}


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Callable[[], Values]]]:
    """Yield the rows of a table whose first line names its columns."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        repeated = {name for name in columns if columns.count(name) > 1}
        if "prompt" not in columns or repeated:
            wrong = f"names {repeated.pop()!r} twice" if repeated else 'names no column "prompt"'
            raise SettingsError(
                f"{path} {wrong}: write the column names, separated by commas, in its first line."
            )
        _check_columns(columns)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, lambda cells=cells: _from_cells(columns, cells)
    except csv.Error as error:
        raise SettingsError(
            f"{path} is not a table after line {reader.line_num} ({error}): close every quote."
        ) from None


def _from_json(text: str) -> Values:
    """Read a row of .jsonl. Raises SettingsError."""
    try:
        row = json.loads(text, object_pairs_hook=named_once)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"this is not a JSON object ({error}): write one per line.") from None
    if not isinstance(row, dict):
        raise SettingsError(f'this is not a JSON object: write {{"prompt": ...}} instead of {text[:40]!r}.')
    _check_columns(row)
    values = {name: value for name, value in row.items() if value is not None}
    if isinstance(values.get("size"), int):
        values["size"] = str(values["size"])
    for name in TEXTS:
        if name in values and not isinstance(values[name], str):
            raise SettingsError(f"{name} = {str(values[name])[:40]!r}, but it must be text.")
    if "prompt" not in values:
        raise SettingsError('"prompt" is missing: write what to draw.')
    return values


def _from_cells(columns: list[str], cells: list[str]) -> Values:
    """Read a row of .csv. Raises SettingsError."""
    if len(cells) != len(columns):
        raise SettingsError(
            f"it has {len(cells)} cells for {len(columns)} columns: put texts with commas in quotes."
        )
    values: Values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True) if cell.strip()}
    if "prompt" not in values:
        raise SettingsError('"prompt" is empty: write what to draw.')
    for name, kind in NUMBERS.items():
        if name in values:
            try:
                values[name] = kind(values[name])
            except ValueError:
                what = "whole number" if kind is int else "number"
                raise SettingsError(f"{name} = {values[name][:40]!r}, but it must be a {what}.") from None
    for name in SWITCHES:
        if name in values:
            if values[name].lower() not in ("true", "false"):
                raise SettingsError(f"{name} = {values[name][:40]!r}, but it must be true or false.")
            values[name] = values[name].lower() == "true"
    return values


def _check_columns(names: Mapping[str, Any] | list[str]) -> None:
    """Raise SettingsError for a name that means nothing."""
    for name in names:
        if name not in COLUMNS:
            raise SettingsError(f"There is no column {name[:40]!r}: use {', '.join(COLUMNS)}.")


def _with_sides(values: Values) -> Values:
    """Return the row's values with its `size`, if it has one, as width and height."""
    if "size" not in values:
        return values
    if "width" in values or "height" in values:
        raise SettingsError("it has both a size and a width or height: use one of the two.")
    width, height = parse_size(values["size"])
    return {
        **{name: value for name, value in values.items() if name != "size"},
        "width": width,
        "height": height,
    }


def _steering(values: Values, folder: Path, usual: StoredControl) -> StoredControl | None:
    """Take from a row what steers it, and return it, complete by what is usual; None: nothing.

    folder: that paths of rows are relative to. Raises SettingsError.
    """
    file = values.pop("control", None)
    own = {name.removeprefix("control_"): values.pop(name) for name in STEERING if name in values}
    path = usual.path if file is None else os.fspath(folder / Path(file).expanduser())
    if path:
        return replace(usual, path=path, **own)
    if own:
        raise SettingsError(
            f"control_{next(iter(own))} needs an image to steer by: name its file in the column control."
        )
    return None


def checked_name(name: str) -> str:
    """Return the name that a row chose for its file, without .png. Raises SettingsError."""
    stem = unicodedata.normalize("NFC", name).removesuffix(".png")
    long = len(stem.encode(errors="replace")) > MAX_NAME
    if long or not re.fullmatch(r"\w([\w ().,+=@-]*[\w)+=@-])?", stem) or _DEVICES.fullmatch(stem):
        raise SettingsError(
            f"name = {name[:40]!r}, but it must be a plain file name: use letters, digits, spaces and "
            f"any of -_.,()+=@, begin with a letter or digit, and stay below {MAX_NAME} bytes."
        )
    return stem


def slug(prompt: str) -> str:
    """Return "-" and the first words of a prompt, in any script, as they can stand in a file's name."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", prompt).lower().replace("_", " "))
    slug = "-".join(words)[:SLUG].rstrip("-")
    return f"-{slug}" if slug else ""
