"""The benchmark of GPUs where there is none: it says so, and its tables hold what was timed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def benchmark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(repository / "benchmarks")
    import gpu

    yield gpu
    del sys.modules["gpu"]


def test_without_a_gpu_it_says_so_and_exits_with_2(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("Unmeasured: ")


def test_limits_are_those_of_the_device_or_as_given(benchmark: ModuleType) -> None:
    listed = benchmark.known_device("NVIDIA H100 80GB HBM3", None, None)
    assert (listed.flops, listed.bytes) == (989e12, 3.35e12)
    assert benchmark.known_device("NVIDIA H100 PCIe", 756, 2).flops == 756e12
    assert benchmark.known_device("another", 100, None) is None
    assert benchmark.known_device("another", 100, 1).bytes == 1e12


def test_a_row_has_milliseconds_ratios_and_the_share_of_the_limit(benchmark: ModuleType) -> None:
    times = {"ours": [0.010, 0.008, 0.012], "diffusers": [0.020, 0.032, 0.040]}
    table = benchmark.laid_out(times, 0.005, 0.55, {"ours": 0.012})
    assert table[2:] == [
        "| ours | 10.000 | 8.000 | 1.00 (1.00) | 50% (target 55%) | 1.2e-02 |",
        "| diffusers | 32.000 | 20.000 | 3.20 (2.50) | 16% | - |",
    ]
