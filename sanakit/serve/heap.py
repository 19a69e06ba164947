"""One heap for all threads of a server, so that its memory stays flat.

glibc gives threads heaps of their own, up to eight a core, and each keeps the most that it ever held. A
server's threads decode, encode and hand images to the thread that draws, so each of those heaps slowly
fills with holes. Other C libraries have no such heaps.
Source: mallopt(3), M_ARENA_MAX; benchmarks/siege.py measures what it is worth.
"""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # malloc.h


def share_heap() -> None:
    """Have threads that are still to come allocate in the heap of the first.

    MALLOC_ARENA_MAX in the environment says otherwise. Does nothing where the C library is not glibc.
    """
    if os.name != "posix" or "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
