"""Gated delta attention in steps of frames: the kernel beside its plain twin, and the least work of both.

    python benchmarks/gated_delta.py [--runs 15] [--threads 1] [--write]

Both take turns in one process. Seconds are those that the thread computed, so that other processes on the
machine count less. Per frame and head of width d, S tokens and values of e channels, the parallel form needs
S d^2 (the symmetric A), 2 S d e each (U, results) and 4 d^2 e (steps in both directions) operations. With
e = 1 it is less to follow the rule: 10 S d. What has to move is queries, keys, values and results, once. The
floor is the larger of operations at the rate of torch's matrix product, measured in between, and bytes at the
rate of a copy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import side_by_side as side

SHAPES = {  # B T S h d e: of pocket-sized worlds, of SANA-WM's chunks at 720p, of its clips at 360p
    "pocket, 8 heads of 32": (1, 7, 64, 8, 32, 32),
    "pocket, 6 heads of 48": (1, 7, 144, 6, 48, 48),
    "SANA-WM, a chunk at 720p": (1, 3, 880, 20, 112, 112),
    "SANA-WM, 161 frames at 360p": (1, 21, 220, 20, 112, 112),
}
KERNEL, TWIN, PRODUCT, COPY = "kernel", "twin", "matrix product", "copy"


def main() -> None:
    """Measure every shape, print and store the table."""
    parser = side.parser_of(__doc__, model=False)
    parser.set_defaults(runs=15)
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    head = [
        "",
        "e",
        "operations",
        "moved",
        "floor",
        "twin",
        "kernel",
        "twin / kernel",
        "floor / kernel",
        "error",
    ]
    rows = [
        [name, " and ".join(map(str, values)), *measured(shape, values, asked.runs)]
        for name, shape in SHAPES.items()
        for values in ([shape[-1]], [1], [shape[-1], 1])
    ]
    what = f"{asked.threads} thread(s), medians of {asked.runs} runs; milliseconds."
    lines = [*side.heading("Gated delta attention", what), "", *side.table(head, rows)]
    side.publish(lines, "gated-delta", write=asked.write)


def measured(shape: tuple[int, ...], channels: list[int], runs: int) -> list[str]:
    """One row of the table. channels: of the values of each call; models divide the first by the second."""
    import torch

    from sanakit.ops import native
    from sanakit.ops.gated_delta import gated_delta, recurrent_gated_delta

    batch, frames, tokens, heads, width, _ = shape
    given = {
        "query": torch.randn(batch, frames, tokens, heads, width),
        "key": torch.randn(batch, frames, tokens, heads, width) * (width * tokens) ** -0.5,
        "beta": torch.rand(batch, frames, tokens, heads),
        "decay": torch.rand(batch, frames, heads),
    }
    values = [torch.randn(batch, frames, tokens, heads, count) for count in channels]
    library = native._load

    def kernel() -> list[Any]:
        return [gated_delta(value=value, **given)[0] for value in values]

    def twin() -> list[Any]:
        native._load = lambda: (None, "")  # as where there is no compiler
        try:
            return kernel()
        finally:
            native._load = library

    square, block = torch.randn(512, 512), torch.randn(1 << 22)
    calls = {KERNEL: kernel, TWIN: twin, PRODUCT: lambda: square @ square}
    calls[COPY] = block.clone
    times = {name: statistics.median(found) for name, found in computed(calls, runs).items()}
    wide = {name: x.double() for name, x in given.items()}
    exact = [recurrent_gated_delta(value=value.double(), **wide)[0] for value in values]
    error = max(side.relative_error(*pair) for pair in zip(kernel(), exact, strict=True))
    one = batch * frames * heads
    operations = one * sum(least(tokens, width, count) for count in channels)
    moved = 4 * one * tokens * sum(2 * width + 2 * count for count in channels)
    rate, speed = 2 * 512**3 / times[PRODUCT], 8 * block.numel() / times[COPY]
    floor = max(operations / rate, moved / speed)
    return [
        f"{operations / 1e6:.1f} M",
        f"{moved / 1e6:.1f} MB",
        f"{1e3 * floor:.3f}",
        f"{1e3 * times[TWIN]:.3f}",
        f"{1e3 * times[KERNEL]:.3f}",
        f"{times[TWIN] / times[KERNEL]:.1f}",
        f"{floor / times[KERNEL]:.0%}",
        f"{error:.0e}",
    ]


def least(tokens: int, width: int, values: int) -> int:
    """Operations of one frame and head, in the cheaper form."""
    parallel = tokens * width * (width + 4 * values) + 4 * width * width * values
    return min(parallel, 10 * tokens * width * values)


def computed(calls: dict[str, Callable[[], Any]], runs: int) -> side.Times:
    """As `side.interleave`, but the seconds that the process computed, of as many calls as take 20 ms."""
    again = {}
    for name, call in calls.items():
        call()
        started = time.process_time()
        call()
        again[name] = 1 + int(0.02 / (time.process_time() - started))
    times: side.Times = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            started = time.process_time()
            for _ in range(again[name]):
                call()
            times[name].append((time.process_time() - started) / again[name])
    return times


if __name__ == "__main__":
    main()
