"""The thread of an engine: it finishes what was begun in time, and fails the rest."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import ClosedError
from sanakit.serve.engine.worker import Worker

THREADS = 1  # of torch, set in the worker's thread


class Counter(Worker):
    """Counts to the end of its queue."""

    def __init__(self, left: int) -> None:
        super().__init__("counter", THREADS)
        self.left, self.failed, self.torch_threads = left, 0, 0

    def start(self) -> None:
        self._thread.start()

    def take(self) -> None:
        self._check_open()

    def _run(self) -> None:
        self.torch_threads = torch.get_num_threads()
        with self._condition:
            self._condition.wait_for(lambda: self._closing)
            while self.left and not self._abandoning:
                self.left -= 1
                self._condition.wait(0.01)
            self.failed, self.left = self.left, 0


def test_a_worker_is_alive_from_its_start_to_its_end() -> None:
    worker = Counter(0)
    assert not worker.alive
    worker.start()
    assert worker.alive
    worker.take()
    worker.close()
    assert not worker.alive
    assert worker.torch_threads == THREADS
    with pytest.raises(ClosedError, match="stopping"):
        worker.take()


def test_what_was_begun_is_finished_where_there_is_time() -> None:
    worker = Counter(5)
    worker.start()
    worker.close(drain=60)
    assert worker.failed == 0


def test_what_takes_longer_is_given_up() -> None:
    worker = Counter(1_000_000)
    worker.start()
    worker.close(drain=0.05)
    assert 0 < worker.failed < 1_000_000


def test_one_that_never_started_can_be_closed() -> None:
    worker = Counter(1)
    worker.close(drain=60)
    assert not worker.alive
