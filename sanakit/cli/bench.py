"""`sana bench`: how fast a model draws here, and what of the machine is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sanakit.cli.drawing.options import Adapters, parse_adapters
from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar, size_in_bytes

if TYPE_CHECKING:
    from sanakit.bench.speed import SpeedReport


def bench(
    model: Annotated[
        str, typer.Option(help="A name (`sana models`), folder, .safetensors or .pth file, or Hub org/repo.")
    ] = "pocket",
    size: Annotated[
        str | None, typer.Option(metavar="WxH", show_default="model's own", help="Pixels, such as 256x192.")
    ] = None,
    runs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images to time, after one warm-up image.")
    ] = 5,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default="all", help="Of the CPU.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    adapter: Adapters = None,
    info: Annotated[
        bool, typer.Option("--info", help="Print version, processor, devices and kernels, then exit.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure how fast a model draws on this machine.

    Seconds of each stage, the arithmetic it needs, and peak memory.
    """
    from sanakit.bench.speed import machine_facts, measure_speed
    from sanakit.images.image import parse_size

    if info:
        facts = machine_facts()
        if as_json:
            print_json(facts)
            return
        for name, text in facts.items():
            print(f"{name:<{max(map(len, facts))}}  {text}")
        return
    width, height = parse_size(size) if size is not None else (None, None)
    with progress_bar("loading the model") as show:
        report = measure_speed(
            model,
            width=width,
            height=height,
            runs=runs,
            threads=threads,
            device=device,
            adapters=parse_adapters(adapter),
            progress=show,
        )
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _print_report(report: SpeedReport) -> None:
    print(
        f"{report.model}: {report.width}x{report.height}, {report.steps} steps, guidance "
        f"{report.guidance:g}; {report.device}, {report.threads} thread(s), kernels {report.kernels}; "
        f"{report.runs} runs"
    )
    print(f"{'':<18}{'median s':>10}{'min s':>10}{'GFLOP':>10}{'GFLOP/s':>10}")
    for stage in report.stages:
        work = "".join("" if value is None else f"{value:>10.2f}" for value in (stage.gflop, stage.rate))
        print(f"{stage.name:<18}{stage.median:>10.4f}{stage.minimum:>10.4f}{work}")
    print(f"{'matrix product':<48}{report.product_rate:>10.1f}")
    if report.peak_memory is not None:
        print(f"peak memory       {size_in_bytes(report.peak_memory)}")
