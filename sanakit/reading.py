"""Read files that people wrote: no pipes, and lines that end where every editor ends them.

`str.splitlines` also splits at U+0085, U+2028 and other characters, which may stand in prompts and captions.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ENDS = re.compile(r"\r\n|\r|\n")
# Characters that other readers may take for the end of a line, and JSON leaves as they are.
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise OSError for a pipe, a socket or a device, whose reading may never end, and where nothing is."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", os.fspath(path))


def read_text(path: str | os.PathLike[str]) -> str:
    r"""Return a file's text: UTF-8, without a byte order mark, every line ended by \n.

    Raises OSError, or UnicodeDecodeError for another encoding.
    """
    check_file(path)
    return Path(path).read_text(encoding="utf-8-sig")


def split_lines(text: str) -> list[str]:
    r"""Return the lines of a text, without their ends: \n, \r\n or \r, and nothing else.

    >>> split_lines("a\u2028b\r\nc\n")
    ['a\u2028b', 'c']
    """
    lines = _ENDS.split(text)
    return lines if lines[-1] else lines[:-1]


def json_line(row: Mapping[str, Any]) -> str:
    """Return an object as a line of JSON, with its end: one line to every reader, however it splits."""
    return json.dumps(row, ensure_ascii=False).translate(_ESCAPED) + "\n"


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, as `object_pairs_hook` of `json.loads`.

    Raises ValueError for a name that is there twice: readers take either.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it says {name[:80]!r} twice")
    return found
