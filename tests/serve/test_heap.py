"""What a server has freed goes back to the system, also from between pieces that it still uses."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sanakit.serve import heap

PIECE, PIECES = 65_536, 1600  # bytes: too few for a mapping of its own; 105 MB together


def resident() -> float:
    """Memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


HOLES = """
import time
from tests.serve.test_heap import PIECE, PIECES, resident
from sanakit.serve import heap

heap.EVERY = 0.05
before = resident()
pieces = [b"x" * PIECE for _ in range(PIECES)]
kept = pieces[::16]
del pieces
held = resident() - before
assert held > 80, held  # glibc alone keeps it
with heap.trimmed_heap():
    until = time.monotonic() + 10
    while resident() - before > held / 2 and time.monotonic() < until:
        time.sleep(0.05)
assert resident() - before < held / 2, (resident(), before, held)
assert kept[1] == b"x" * PIECE
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="needs Linux and glibc",
)
def test_holes_between_pieces_in_use_are_returned() -> None:
    """In a process of its own: what other tests have freed would be taken first."""
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_where_the_c_library_cannot_do_it_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    before = threading.active_count()
    with heap.trimmed_heap():
        assert threading.active_count() == before
