"""Warnings about images, files and columns of a data set that are not used."""

from __future__ import annotations

import sys
from collections.abc import Mapping

MOST = 20  # lines; --json has all names


def warn_unused(reasons: Mapping[str, str]) -> None:
    """Print a line for each reason. reasons: name of an image, file or column -> why it is not used."""
    from sanakit.data.read.reasons import lines_of

    lines, rest = lines_of(reasons, MOST)
    for line in lines:
        print(f"Warning: {line}", file=sys.stderr)
    if rest:
        print(f"Warning: and {rest:,} more: --json lists them", file=sys.stderr)
