"""Shared by several commands: two options, printing for machines, and a progress bar.

Commands that draw have a display of their own (`cli/drawing/display.py`), which also shows the image.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def print_json(value: Any) -> None:
    """Print a result for machines, in ASCII: dataclasses become objects, paths become text."""
    print(json.dumps(value, indent=2, default=_plain))


def size_in_bytes(number: int) -> str:
    """Spell a number of bytes for people: "1.2 GB".

    >>> size_in_bytes(37_000_000)
    '37.0 MB'
    """
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number} B"


def shown(value: object) -> str:
    """Return a value as it may stand in a terminal: on its line, without characters that steer it.

    >>> shown("a fox\\x1b[2J\\nin snow")
    'a fox [2J in snow'
    """
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


@contextmanager
def progress_bar(first: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Yield the function that shows (what is done, how much is done, how much there is) on standard error.

    first: what is done until it is called. Where standard error is not a terminal, nothing is shown and rich
    is not imported.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(first, total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


@contextmanager
def logs_on_stderr(*names: str, form: str = "%(message)s") -> Iterator[None]:
    """Print what these loggers are told, from INFO on, on standard error, as long as it lasts."""

    class Printed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(self.format(record), file=sys.stderr)  # whatever that is now: a bar may stand in for it

    logs = [logging.getLogger(name) for name in names]
    before = [(log.level, log.propagate) for log in logs]
    handler = Printed(logging.INFO)
    handler.setFormatter(logging.Formatter(form))
    for log in logs:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    try:
        yield
    finally:
        for log, (level, propagate) in zip(logs, before, strict=True):
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
