"""Processes that share a clip, played by threads of one: quick, and every message is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class Threads:
    """What the threads share. values: numbers that all of them have sent to others, by kind of call."""

    def __init__(self, world: int) -> None:
        self.world, self.barrier = world, Barrier(world, timeout=60)
        self.posted: list[dict[int, Tensor]] = [{} for _ in range(world)]
        self.values = {"total": 0, "swapped": 0, "gathered": 0}

    def run(self, work: Callable[[ThreadExchange], Result]) -> list[Result]:
        """Let each thread do the work with its own exchange; return what each returns."""

        def one(rank: int) -> Result:
            try:
                with torch.no_grad():
                    return work(ThreadExchange(self, rank))
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.world) as pool:
            return [future.result() for future in [pool.submit(one, rank) for rank in range(self.world)]]


class ThreadExchange:
    """One of the threads; has the methods of `Exchange`."""

    def __init__(self, shared: Threads, rank: int) -> None:
        self.shared, self.rank, self.world = shared, rank, shared.world

    def total(self, tensor: Tensor) -> Tensor:
        return sum(self._told("total", tensor), torch.zeros_like(tensor))

    def swapped(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        self.shared.posted[self.rank] = {peer: one.clone() for peer, one in sent.items()}
        self.shared.values["swapped"] += sum(one.numel() for one in sent.values())
        self.shared.barrier.wait()
        came = {peer: self.shared.posted[peer][self.rank] for peer in sent}
        self.shared.barrier.wait()
        assert all(came[peer].shape == one.shape for peer, one in sent.items())
        return came

    def gathered(self, part: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        parts = self._told("gathered", part)
        assert [tuple(one.shape) for one in parts] == [tuple(shape) for shape in shapes]
        return parts

    def _told(self, kind: str, tensor: Tensor) -> list[Tensor]:
        self.shared.posted[self.rank] = {self.rank: tensor.clone()}
        self.shared.values[kind] += tensor.numel()
        self.shared.barrier.wait()
        found = [posted[rank] for rank, posted in enumerate(self.shared.posted)]
        self.shared.barrier.wait()
        return found
