"""Memory that a server has freed goes back to the system, so that it stays flat.

glibc keeps a heap for each thread, and all of it up to the last piece in use. A server's threads decode,
encode and hand images to the thread that draws, so these heaps fill with holes. Other C libraries return
memory by themselves.
Source: malloc_trim(3); benchmarks/siege.py measures what it is worth.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 10.0  # seconds; one call takes milliseconds


@contextmanager
def trimmed_heap() -> Iterator[None]:
    """Return free memory to the system every EVERY seconds, in a thread, where the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is None:
        yield
        return
    over = threading.Event()

    def work() -> None:
        while not over.wait(EVERY):
            trim(0)

    thread = threading.Thread(target=work, name="sana-heap", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
