"""What every benchmark shares: calls timed in turn, the machine's own rate, tables, dated results.

Calls take turns inside one process, so that a slow minute of the machine slows both sides. torch and what
needs it is imported inside functions: a script sets the number of threads first.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

RESULTS = Path(__file__).resolve().parent / "results"
TORCH_PRODUCT, OUR_PRODUCT = "matrix product of torch", "matrix product of ours"
PRODUCT = (1152, 5760)  # inputs and outputs of the largest product of the 0.6B transformer

Calls = Mapping[str, Callable[[], Any]]
Times = dict[str, list[float]]  # seconds of each run, by the name of the call


def numbers(text: str) -> list[int]:
    """Read "512,1024" as [512, 1024] and "" as []; a type for argparse."""
    return [int(word) for word in text.split(",") if word]


def parser_of(
    description: str | None, *, threads: int | None = 1, model: bool = True
) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark; threads: None where the script has its own.

    model: whether it measures a model of images; else the options of that are left out.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="of each call, in turn")
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--write", action="store_true", help="store the tables in benchmarks/results/")
    if model:
        parser.add_argument(
            "--folder", help="the model; default: random weights, made where they are missing"
        )
        parser.add_argument("--text-layers", type=int, default=4, help="of the random Gemma 2, 1 to 26")
        parser.add_argument("--depth", type=int, default=28, help="of the random transformer")
    return parser


def use_threads(count: int) -> None:
    """Let all libraries use this many threads; call it before torch is imported anywhere."""
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported before the number of threads was set")
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages, as the command sets it, for all sides
    import torch

    torch.set_num_threads(count)
    torch.set_grad_enabled(False)


def interleave(calls: Calls, runs: int) -> Times:
    """Call each once unmeasured, then all of them in turn, `runs` times. Returns seconds."""
    for call in calls.values():
        call()
    times: Times = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return times


def matrix_products(rows: int) -> tuple[dict[str, Callable[[], Any]], float]:
    """Return both matrix products at a shape of the model, and the operations of one call of either."""
    import torch
    import torch.nn.functional as F

    from sanakit.ops.linear import linear

    inputs, outputs = PRODUCT
    again = max(1, int(2e10 / (2 * rows * inputs * outputs)))  # some tenths of a second
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs) / inputs**0.5

    def repeat(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def repeated() -> None:
            for _ in range(again):
                call(x, weight)

        return repeated

    calls = {TORCH_PRODUCT: repeat(F.linear), OUR_PRODUCT: repeat(linear)}
    return calls, 2.0 * again * rows * inputs * outputs


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def rms_error(ours: Tensor, theirs: Tensor) -> float:
    """Root-mean-square difference over the root-mean-square value."""
    return ((ours - theirs).norm() / theirs.norm()).item()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lay out a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def compared(times: Times, reference: str) -> dict[str, tuple[float, float]]:
    """How many times faster `reference` is than each call: ratio of medians, ratio of minima."""
    median, least = statistics.median(times[reference]), min(times[reference])
    return {name: (statistics.median(values) / median, min(values) / least) for name, values in times.items()}


def heading(title: str, what: str) -> list[str]:
    """First lines of a result: date, machine, versions, kernels, command."""
    import torch

    from sanakit.ops import native

    kernels = native.info()["library"]
    words = " ".join(sys.argv[1:])
    return [
        f"# {title}, {date.today()}",
        "",
        f"{machine()}. torch {torch.__version__}, our kernels: {kernels}. {what}",
        f"Command: `python benchmarks/{Path(sys.argv[0]).name} {words}`",
    ]


def publish(lines: Sequence[str], name: str, *, write: bool) -> None:
    """Print a result and, if asked, store it as results/DATE-MACHINE-name.md."""
    print("\n".join(lines))
    if write:
        result_path(f"{name}.md").write_text("\n".join(lines) + "\n")


def result_path(name: str) -> Path:
    """Where a result of today on this machine lies."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{date.today()}-{platform.machine()}-{name}"


def machine() -> str:
    """Name the processor, its cores and the memory."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = f"{models[0]}, {len(models)} cores" if models else name
    size = resource.getpagesize() * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {size:.0f} GiB"
