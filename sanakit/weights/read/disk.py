"""Any file of a model before its format is known: JSON objects, first bytes, and what they look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sanakit.errors import WeightsError
from sanakit.reading import check_file, named_once

PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save, bare pickle
AGAIN = "Download or export it again."
_WORDS: dict[type, str] = {
    **{dict: "an object", list: "a list", str: "a text", type(None): "nothing (null)"},
    **{int: "a number", float: "a number", bool: "true or false"},
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model's folder. Raises WeightsError when it is missing or damaged."""
    try:
        check_file(path)
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=named_once)
    except OSError as error:
        raise WeightsError(
            f"{path} is missing or not readable ({error.strerror}): the model's folder is incomplete. {AGAIN}"
        ) from None
    except RecursionError:
        raise WeightsError(f"{path} is JSON nested too deeply to be read. {AGAIN}") from None
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON ({error}). {AGAIN}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds {in_words(content)} where an object of JSON is expected. {AGAIN}")
    return content


def in_words(value: object) -> str:
    """Return what a value of a file is, as its author would say.

    >>> in_words([]), in_words(None)
    ('a list', 'nothing (null)')
    """
    return _WORDS.get(type(value), f"a {type(value).__name__}")


def first_bytes(path: Path) -> bytes:
    """Return the first 512 bytes of a file. Raises WeightsError when it is empty or cannot be read."""
    try:
        check_file(path)
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions."
        ) from None
    if not start:
        raise WeightsError(f"{path} is empty (0 bytes): the download or copy did not finish. {AGAIN}")
    return start


def looks_like(start: bytes) -> str:
    """Return in words what the first bytes of a file look like."""
    if start.lstrip()[:1] == b"<":
        return "a web page (often a log-in or error page saved in place of the file)"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights it stands for (run `git lfs pull`)"
    if start.startswith(PICKLES):
        return "a pickle (.pth), which can run code when opened"
    printable = start.decode("utf-8", errors="ignore").translate({9: " ", 10: " ", 13: " "}).isprintable()
    return "a text file" if printable else "in no known format"
