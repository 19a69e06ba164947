"""Hashes over bytes: all of them, or samples, whose places depend on the length alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

SAMPLE = 4096  # bytes of a sample
READ_BYTES = 1 << 24  # bytes read at once where all are hashed
FILE_SAMPLES = 256  # of a whole file


def spans(length: int, samples: int | None) -> Iterator[tuple[int, int]]:
    """Yield the bytes (from, to) to read of `length`: even samples with both ends, or None for all.

    >>> list(spans(20_000, samples=3))
    [(0, 4096), (7952, 12048), (15904, 20000)]
    """
    if samples is None or length <= samples * SAMPLE:
        yield from ((start, min(start + READ_BYTES, length)) for start in range(0, length, READ_BYTES))
        return
    for index in range(samples):
        start = (length - SAMPLE) * index // (samples - 1)
        yield start, start + SAMPLE


def file_digest(path: Path, *, exact: bool) -> str:
    """Return the SHA-256 of a file's length and bytes, all or samples. Raises OSError."""
    length = path.stat().st_size
    digest = hashlib.sha256(f"{length} ".encode())
    with path.open("rb") as file:
        for start, end in spans(length, None if exact else FILE_SAMPLES):
            file.seek(start)
            digest.update(file.read(end - start))
    return digest.hexdigest()
