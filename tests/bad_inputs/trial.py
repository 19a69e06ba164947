"""One bad input, tried on the program, and what became of it: refused, told, accepted, or a fault.

A fault is an exception that is not one of `sanakit.errors`, a message that quotes Python, a pickle or a
program that ran, a file written where nobody asked for one, or silence about an input that is wrong by
construction. `run.py` adds hangs and processes that die.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sanakit.errors import SanaError

# Values for a place where something else belongs.
WEIRD: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 2**63, -(2**63), 10**400, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "\ud83d", "1e9", "../../x", "é" * 300, [], [[]], {}, {"x": 1}, ["x"]),
)
# What no message for a user says.
PYTHON = re.compile(
    r"Traceback|object at 0x|<class '|NoneType|not subscriptable|has no attribute|unsupported operand"
    r"|unexpected keyword|unhashable|not iterable|list index"
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PLACES = {  # audit events that change the file system -> which of their arguments are paths
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.truncate": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "sqlite3.connect": (0,),
}
_HERE = ("127.0.0.1", "::1", "localhost")
_LOADERS = ("/sbin/ldconfig",)  # asked by ctypes, for packages that look for a library
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A bad input and what is done with it.

    what: the input in words. act: try it; return what the program told, raise what it raises. invalid:
    whether it is wrong by construction, so that silence is a fault. writes: folders it may write to, beside
    the working folder.
    """

    what: str
    act: Callable[[], Sequence[str]]
    invalid: bool = False
    writes: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an input; text: the message, or what is wrong."""

    kind: Literal["refused", "told", "accepted", "fault"]
    text: str


class Refused(Exception):
    """The program refused an input without an exception: by an exit code or a status."""


class Wrong(Exception):
    """The program answered in a way that is a fault by itself."""


class Planted:
    """An object whose unpickling makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def judge(attempt: Attempt, place: Path) -> Verdict:
    """Try an input in place/here, which must be the working folder, and say what became of it."""
    caches = os.environ.get("HF_HOME") or place / "tmp"
    allowed = (place / "here", place / "tmp", Path(caches), *attempt.writes)
    with _watched(allowed) as seen:
        verdict = _tried(attempt)
    if (place / "canary").exists():
        seen.insert(0, "a pickle was run")
    for left in (place / "here").rglob(".*.partial"):
        seen.append(f"{left.name} was left behind")
    return Verdict("fault", "; ".join(dict.fromkeys(seen))) if seen else verdict


def _tried(attempt: Attempt) -> Verdict:
    try:
        with _noted() as notes:
            said = [*attempt.act(), *notes]
    except (SanaError, Refused) as error:
        message = str(error)
        if not message.strip() or PYTHON.search(message):
            return Verdict("fault", f"a message that helps nobody: {message[:200]!r}")
        return Verdict("refused", message)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Verdict("fault", _short(error))
    if said:
        return Verdict("told", said[0])
    return Verdict("fault", "accepted in silence") if attempt.invalid else Verdict("accepted", "")


def _short(error: BaseException) -> str:
    """Return an exception in one line, with the last line of our own that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/sanakit/" in frame.filename] or frames
    where = f"{ours[-1].filename.rpartition('/sanakit/')[2]}:{ours[-1].lineno}" if ours else "nowhere"
    words = " ".join(str(error).split())[:160]
    return f"{type(error).__name__} at {where}: {words}"


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collect warnings and what sanakit logs as a warning or worse."""
    notes: list[str] = []

    class Collected(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    log, handler = logging.getLogger("sanakit"), Collected(logging.WARNING)
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *others, **more: notes.append(str(message))
            yield notes
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


_seen: list[str] | None = None
_allowed: tuple[str, ...] = ()
_hooked = False


@contextmanager
def _watched(allowed: Sequence[Path]) -> Iterator[list[str]]:
    """Collect what happens meanwhile that may not: writes elsewhere, programs, pickles, the network."""
    global _seen, _allowed, _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # for good: a hook cannot be taken out
        _hooked = True
    found: list[str] = []
    _seen, _allowed = found, tuple(os.path.realpath(folder) for folder in allowed)
    try:
        yield found
    finally:
        _seen = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & _WRITES:
            _check(path, "written")
    elif event in _PLACES:
        for index in _PLACES[event]:
            if isinstance(arguments[index], str | bytes | os.PathLike):
                _check(arguments[index], event.partition(".")[2])
    elif event.startswith(_PROGRAMS) and arguments[0] not in _LOADERS:
        _seen.append(f"a program was run: {str(arguments[0])[:80]}")
    elif event == "pickle.find_class":
        _seen.append(f"a pickle was opened, which asked for {arguments[0]}.{arguments[1]}")
    elif event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in _HERE:
        _seen.append(f"the network was asked: {arguments[1]}")


def _check(path: Any, how: str) -> None:
    name = os.fsdecode(path)
    if "\0" in name:
        return  # no file can have this name: the system refuses it
    real = os.path.realpath(name)
    if real.startswith("/dev/") or "__pycache__" in real:
        return
    if not any(real == folder or real.startswith(folder + os.sep) for folder in _allowed):
        assert _seen is not None
        _seen.append(f"{how} outside the working folder: {name}")
