"""How our time grows: with the number of threads, and with the number of pixels. No peers.

    python benchmarks/scaling.py threads [--threads 1,2] [--sizes 512]
    python benchmarks/scaling.py pixels [--threads 1] [--sizes 512,1024,2048,4096] [--stages step,decode]
                                        [--write]

threads: every stage with each number of threads in turn; two cores should halve it.
pixels: seconds per megapixel of a transformer step and of a decode, relative to the smallest size; both are
made of parts that are linear in the number of pixels. Large sizes run less often than small ones, among them.
With --write a plot is stored beside the table; it needs matplotlib.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side as side

Calls = dict[str, Callable[[], Any]]
TOKENS = (1, 30)  # of the empty negative prompt and of the prompt


def main() -> None:
    """Measure what was asked for."""
    parser = side.parser_of(__doc__, threads=None)
    parser.add_argument("what", choices=("threads", "pixels"))
    parser.add_argument("--threads", type=side.numbers, help="default: 1,2 for threads, 1 for pixels")
    parser.add_argument("--sizes", type=side.numbers, help="default: 512, or 512,1024,2048,4096 for pixels")
    parser.add_argument("--stages", default="step,decode", help="of pixels")
    asked = parser.parse_args()
    threads = asked.threads or ([1, 2] if asked.what == "threads" else [1])
    sizes = asked.sizes or ([512] if asked.what == "threads" else [512, 1024, 2048, 4096])
    side.use_threads(max(threads))
    from random_weights import random_folder

    folder = Path(asked.folder or random_folder(text_layers=asked.text_layers, depth=asked.depth))
    model = f"Model {folder.name}, float32."
    if asked.what == "threads":
        lines = side.heading("Two cores over one", model) + by_threads(folder, sizes, threads, asked.runs)
    else:
        title = f"{model} {threads[0]} thread(s)."
        made = {"step": ("transformer step", step_calls), "decode": ("decode", decode_calls)}
        stages = dict(made[name] for name in asked.stages.split(","))
        name = asked.what if len(stages) > 1 else f"pixels-{asked.stages}"
        points, table = by_pixels(stages, folder, sizes, asked.runs)
        lines = side.heading("Linear in pixels", title) + table
        if asked.write:
            path = side.result_path(f"{name}.svg")
            plot(sizes, points, path)
            lines += ["", f"![seconds per megapixel]({path.name})"]
        return side.publish(lines, name, write=asked.write)
    side.publish(lines, asked.what, write=asked.write)


def by_threads(folder: Path, sizes: list[int], threads: list[int], runs: int) -> list[str]:
    """Time each stage with each number of threads, in turn."""
    import torch

    stages = {**text_call(folder), **step_calls(folder, sizes), **decode_calls(folder, sizes)}
    stages |= side.matrix_products(2 * (sizes[0] // 32) ** 2)[0]

    def with_threads(count: int, call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(count)
            call()

        return run

    rows = []
    for name, call in stages.items():
        times = side.interleave({str(count): with_threads(count, call) for count in threads}, runs)
        medians = [statistics.median(times[str(count)]) for count in threads]
        least = [min(times[str(count)]) for count in threads]
        ratio = f"{medians[0] / medians[-1]:.2f} ({least[0] / least[-1]:.2f})"
        rows.append([name, *(f"{value:.3f}" for value in medians), ratio])
        print(*rows[-1], flush=True)
    heads = [f"{count} thread(s): median s" for count in threads]
    return ["", *side.table(["", *heads, f"{threads[0]} / {threads[-1]}: median (min)"], rows)]


def by_pixels(
    stages: dict[str, Callable[[Path, list[int]], Calls]], folder: Path, sizes: list[int], runs: int
) -> tuple[dict[str, list[float]], list[str]]:
    """Time stages at all sizes; give seconds per megapixel over those of the smallest, and the table."""
    points: dict[str, list[float]] = {}
    rows = []
    for stage, make in stages.items():
        calls = dict(zip(sizes, make(folder, sizes).values(), strict=True))
        times = _in_proportion(calls, runs)
        per_megapixel = [statistics.median(times[size]) / (size / 1024) ** 2 for size in sizes]
        points[stage] = [value / per_megapixel[0] for value in per_megapixel]
        for size, value, relative in zip(sizes, per_megapixel, points[stage], strict=True):
            seconds = f"{statistics.median(times[size]):.2f}"
            rows.append([stage, size, len(times[size]), seconds, f"{value:.2f}", f"{relative:.2f}"])
    heads = ["", "px", "runs", "median s", "s per megapixel", f"over {sizes[0]} px"]
    return points, ["", *side.table(heads, rows)]


def _in_proportion(calls: dict[int, Callable[[], Any]], runs: int) -> dict[int, list[float]]:
    """Time calls by size, spread evenly among each other; all but the largest first run unmeasured."""
    smallest, largest = min(calls), max(calls)
    turns = {size: max(1, round(runs * smallest / size)) for size in calls}
    for size, call in calls.items():
        if size < largest or len(calls) == 1:  # minutes at 4096 px; by then nothing is new
            call()
    order = sorted(((turn + 0.5) / count, size) for size, count in turns.items() for turn in range(count))
    times: dict[int, list[float]] = {size: [] for size in calls}
    for _, size in order:
        started = time.perf_counter()
        calls[size]()
        times[size].append(time.perf_counter() - started)
        print(f"{size} px: {times[size][-1]:.2f} s", flush=True)
    return times


def text_call(folder: Path) -> Calls:
    """Encode a prompt of 20 tokens."""
    from random_weights import PROMPT

    from sanakit.weights import load_text_encoder

    encoder = load_text_encoder(folder)
    return {f"text, {encoder.model.config.depth} layers": lambda: encoder.encode([PROMPT])}


def step_calls(folder: Path, sizes: list[int]) -> Calls:
    """One velocity with guidance, of each size."""
    import torch

    from sanakit.weights import load_transformer

    model = load_transformer(folder)
    context = model.prepare([torch.randn(count, model.config.text_width) for count in TOKENS])

    def step(cells: int) -> Callable[[], Any]:
        latents = torch.randn(1, model.config.latent_channels, cells, cells)
        return lambda: model.velocity(latents, 0.5, context)

    return {f"transformer step, {size} px": step(size // 32) for size in sizes}


def decode_calls(folder: Path, sizes: list[int]) -> Calls:
    """Decode one image, of each size."""
    import torch

    from sanakit.weights import load_autoencoder

    model = load_autoencoder(folder, part="decoder")

    def decode(cells: int) -> Callable[[], Any]:
        latents = torch.randn(1, model.config.latent_channels, cells, cells)
        return lambda: model.decode(latents)

    return {f"decode, {size} px": decode(size // 32) for size in sizes}


def plot(sizes: list[int], points: dict[str, list[float]], path: Path) -> None:
    """Draw seconds per megapixel over the side of the image: flat is linear; the band is 15 % wide."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.axhspan(0.85, 1.15, color="0.92", label="15 %")
    for name, values in points.items():
        axes.plot(sizes, values, marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_ylim(0, max(1.3, *(value * 1.1 for values in points.values() for value in values)))
    axes.set_xlabel("side of the picture, px")
    axes.set_ylabel(f"seconds per megapixel over {sizes[0]} px")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
