"""Lines about images and files that are not used: one for each reason, however many they are."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = 3  # of one reason


def lines_of(reasons: Mapping[str, str], most: int) -> tuple[list[str], int]:
    """Return at most so many lines, one for each reason, and how many names stand in none of them.

    reasons: name -> why it is not used. A thousand files of one reason do not hide the one of another.
    >>> lines_of({"a.npy": "is not an image", "b.npy": "is not an image", "c.tar": "ends early"}, 5)
    (['a.npy, b.npy: is not an image', 'c.tar: ends early'], 0)
    """
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    told = list(groups.items())[:most]
    lines: list[str] = []
    for reason, names in told:
        more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
        lines.append(f"{', '.join(names[:_NAMES])}{more}: {reason}")
    return lines, len(reasons) - sum(len(names) for _, names in told)
