"""A lock that threads get in the order in which they asked for it.

A thread that leaves it hands it to the next. Python's own lock is free for a moment then: a thread that comes
back at once takes it again, and others may wait for ever.
"""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """A lock without barging. A thread that holds it may not ask for it again."""

    def __init__(self) -> None:
        self._inner = threading.Lock()  # held for moments
        self._held = False
        self._waiting: deque[threading.Lock] = deque()  # each is released to hand the lock over

    def acquire(self, timeout: float) -> bool:
        """Wait for so many seconds at most; return whether the lock is held now."""
        with self._inner:
            if not self._held:
                self._held = True
                return True
            own = threading.Lock()
            own.acquire()
            self._waiting.append(own)
        if own.acquire(timeout=timeout):
            return True
        with self._inner:
            if own not in self._waiting:  # it was handed over in this moment
                return True
            self._waiting.remove(own)
            return False

    def release(self) -> None:
        """Hand the lock to whoever has waited longest."""
        with self._inner:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
