"""The speed of a run: samples per second, the share of time spent waiting for data, and MFU.

MFU (model FLOPs utilisation) is the arithmetic of the model's matrix products (counted by `bench/floors.py`,
forward and backward), divided by what the device can do in the time. The latter is measured once with a large
matrix product in the run's precision; 1 equals that product. Recomputed work counts once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch

SIDES = {"cpu": 512, "cuda": 8192}  # of the square matrices whose product is timed
ROUNDS = 4


class PaceReport(TypedDict):
    """The figures since the last report."""

    seconds: float
    samples_per_second: float
    data_wait: float
    mfu: float | None


class Pace:
    """Adds up times and work of steps; `report` gives the figures and begins from scratch."""

    def __init__(self, device: torch.device, bf16: bool) -> None:
        self._device = device
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._rate: float | None = None
        self._begun = time.perf_counter()
        self._step = 0.0
        self._clear()

    def start_step(self) -> None:
        """Begin a step's time."""
        self._step = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def count(self, flops: int) -> None:
        """Add a batch's work on this device."""
        self._flops += flops

    def end_step(self, samples: int) -> None:
        """End a step of so many samples, on all ranks together; the device has finished it."""
        self._seconds += time.perf_counter() - self._step
        self._samples += samples

    def report(self) -> PaceReport:
        """Return the figures since the last report."""
        if self._flops and self._rate is None:
            self._rate = product_rate(self._device, self._dtype)
        seconds = max(self._seconds, 1e-9)
        report = PaceReport(
            seconds=time.perf_counter() - self._begun,
            samples_per_second=self._samples / seconds,
            data_wait=self._waited / seconds,
            mfu=self._flops / seconds / self._rate if self._rate else None,
        )
        self._clear()
        return report

    def _clear(self) -> None:
        self._seconds = self._waited = 0.0
        self._samples = self._flops = 0


@torch.no_grad()
def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a square matrix product on this device, the best of several."""
    side = SIDES.get(device.type, SIDES["cuda"])
    left, right = torch.ones(2, side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
