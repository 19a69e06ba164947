"""The figures of speed: what is counted, what is not, and that a report begins from scratch."""

from __future__ import annotations

import pytest
import torch

from sanakit.train import pace
from sanakit.train.pace import Pace, product_rate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until its only entry is changed."""
    now = [100.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(pace, "product_rate", lambda device, dtype: 50.0)
    return now


def step(measured: Pace, clock: list[float], *, waits: float, works: float, flops: int = 0) -> None:
    measured.start_step()
    with measured.waiting():
        clock[0] += waits
    measured.count(flops)
    clock[0] += works
    measured.end_step(16)


def test_figures_are_those_of_the_steps_since_the_last_report(clock):
    measured = Pace(torch.device("cpu"), bf16=False)
    step(measured, clock, waits=100.0, works=0.0, flops=10**9)
    measured.report()
    step(measured, clock, waits=0.5, works=1.5, flops=40)
    clock[0] += 7  # drawing a sheet
    step(measured, clock, waits=0.5, works=1.5, flops=60)
    assert measured.report() == {
        "seconds": 111.0,
        "samples_per_second": 8.0,
        "data_wait": 0.25,
        "mfu": pytest.approx(100 / 4 / 50),
    }


def test_work_that_was_not_counted_has_no_mfu(clock):
    measured = Pace(torch.device("cpu"), bf16=False)
    step(measured, clock, waits=0.0, works=1.0)
    assert measured.report()["mfu"] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_of_products_is_that_of_a_product(dtype):
    assert 1e7 < product_rate(torch.device("cpu"), dtype) < 1e14
