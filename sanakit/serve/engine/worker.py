"""The thread in which an engine computes: the lock of its queue, and how it ends."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import torch

from sanakit.errors import ClosedError


class Worker(ABC):
    """A thread that takes work from a queue until it is closed. threads: of torch in it; None: its own."""

    def __init__(self, name: str, threads: int | None) -> None:
        self.threads = threads
        self._condition = threading.Condition()  # of the queue, and of the two flags
        self._closing = self._abandoning = False
        self._thread = threading.Thread(target=self._in_thread, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it was started and accepts work."""
        return self._thread.is_alive() and not self._closing

    def wake(self) -> None:
        """Have the thread look at once for what was cancelled."""
        with self._condition:
            self._condition.notify()

    def close(self, drain: float = 0.0) -> None:
        """Take no more work, finish what there is within `drain` seconds, fail the rest with ClosedError."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(drain)
        with self._condition:
            self._abandoning = True
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _check_open(self) -> None:
        """Raise ClosedError if no more work is taken."""
        if self._closing:
            raise ClosedError("The server is stopping: try again later.")

    def _in_thread(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self._run()

    @abstractmethod
    def _run(self) -> None:
        """Work until the queue is closed. Runs in the thread."""
