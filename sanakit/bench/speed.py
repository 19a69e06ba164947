"""Measure how fast a model draws on this machine: seconds per stage, arithmetic rate, peak memory.

Whole images are drawn and their own timings read, so the figures hold for what a user does: with the memory
plan, caches and kernels that are in use. Each run asks for other words, so that no stored text answers it.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from sanakit import __version__
from sanakit.adapters.pipeline import AdapterChoices
from sanakit.bench.floors import Work, decoding, text_encoding, transformer_step
from sanakit.models.dc_ae import DCAEConfig
from sanakit.models.sana import SanaConfig
from sanakit.ops import native
from sanakit.ops.linear import linear
from sanakit.pipelines.memory import choose_device
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.encoder import TextEncoder

PROMPT = "a red apple"
PRODUCT = (512, 1024, 4096)  # rows, inputs and outputs of the matrix product that is timed as a yardstick

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpeed:
    """Timings of one stage. The work of "picture" is left out, as it is the sum of the other stages."""

    name: str
    median: float  # seconds
    minimum: float
    gflop: float | None  # what it needs, in 1e9 operations
    rate: float | None  # GFLOP/s at the median


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedReport:
    """Figures of one model on one machine."""

    model: str
    width: int  # pixels
    height: int
    steps: int
    guidance: float
    runs: int
    threads: int
    device: str
    kernels: str
    stages: tuple[StageSpeed, ...]  # text, transformer step, decode, whole image
    product_rate: float  # GFLOP/s of a float32 matrix product just now
    peak_memory: int | None  # bytes, resident at most (on a GPU: allocated); None where it is not known


def measure_speed(
    model: str | os.PathLike[str] = "pocket",
    *,
    width: int | None = None,
    height: int | None = None,
    runs: int = 5,
    threads: int | None = None,
    device: str = "auto",
    adapters: AdapterChoices = (),
    progress: OnProgress = lambda what, done, total: None,
) -> SpeedReport:
    """Draw `runs` images after an unmeasured first one, with the model's own settings.

    model, device, adapters: as for `TextToImage.from_pretrained`; of adapters the seconds are measured, their
    arithmetic is not counted. width, height: pixels; None: the model's own.
    threads: of the CPU, 1 or more; None: as they are. Raises what loading and drawing raise.
    >>> measure_speed(runs=1).stages[-1].name
    'picture'
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        pipe = TextToImage.from_pretrained(model, device=device, adapters=adapters)
        return _measure(pipe, width, height, runs, choose_device(device), progress)
    finally:
        torch.set_num_threads(before)


def machine_facts() -> dict[str, str]:
    """Tell what bears on speed: version, processor, threads, torch, devices, and the kernels in use."""
    return {
        "sanakit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "devices": ", ".join(_devices()),
        **{f"kernels: {name}": value for name, value in native.info().items()},
    }


def _measure(
    pipe: TextToImage,
    width: int | None,
    height: int | None,
    runs: int,
    place: torch.device,
    progress: OnProgress,
) -> SpeedReport:
    own = pipe.settings
    width, height = width or own.width, height or own.height
    seconds: dict[str, list[float]] = {"text": [], "transformer step": [], "decode": [], "picture": []}
    for run in range(runs + 1):
        progress("drawing", run, runs + 1)
        started = perf_counter()
        prompt = f"{PROMPT}, number {run}"
        timings = pipe(prompt, seed=run, width=width, height=height, binned=_binned(pipe)).timings
        if run:  # the first one read the weights
            seconds["picture"].append(perf_counter() - started)
            seconds["text"].append(timings["text"])
            seconds["transformer step"].append(timings["denoise"] / own.steps)
            seconds["decode"].append(timings["decode"])
    work = _work(pipe, width, height)
    stages = []
    for name, values in seconds.items():
        median = statistics.median(values)
        gflop = work[name].flops / 1e9 if name in work else None
        rate = None if gflop is None else gflop / median
        stages.append(StageSpeed(name=name, median=median, minimum=min(values), gflop=gflop, rate=rate))
    return SpeedReport(
        model=own.name,
        width=width,
        height=height,
        steps=own.steps,
        guidance=own.guidance,
        runs=runs,
        threads=torch.get_num_threads(),
        device=str(place),
        kernels=native.info()["library"].partition(":")[0],
        stages=tuple(stages),
        product_rate=_product_rate(place),
        peak_memory=_peak_memory(place),
    )


def _binned(pipe: TextToImage) -> bool:
    """Return whether sizes snap to bins; a model that lists its sizes is timed at any size."""
    return not pipe.settings.sizes


def _work(pipe: TextToImage, width: int, height: int) -> dict[str, Work]:
    """Return the work of each stage; nothing for parts of other kinds than those that `floors.py` counts."""
    sana, autoencoder, encoder = pipe.transformer.config, pipe.autoencoder.config, pipe.text_encoder
    if not (
        isinstance(sana, SanaConfig)
        and isinstance(autoencoder, DCAEConfig)
        and isinstance(encoder, TextEncoder)
    ):
        return {}
    compression = autoencoder.compression
    drawn = pipe.spec.drawn_size(width, height, binned=_binned(pipe))
    cells = drawn[0] // compression, drawn[1] // compression
    tokens = len(encoder.tokenize([f"{PROMPT}, number 1"])[0])
    features = tokens + 1 - encoder.instructed.first_kept + len(encoder.instructed.prefix)
    guided = pipe.settings.guidance > 1 and not sana.guidance_embed
    prompts = (1, features) if guided else (features,)
    past = len(encoder.instructed.prefix)
    return {
        "text": text_encoding(encoder.model.config, tokens, past),
        "transformer step": transformer_step(sana, *cells, prompts),
        "decode": decoding(autoencoder, *cells),
    }


def _product_rate(device: torch.device) -> float:
    """Return the GFLOP/s of a float32 matrix product, the best of several."""
    rows, inputs, outputs = PRODUCT
    x = torch.randn(rows, inputs, device=device, dtype=torch.float32)
    weight = torch.randn(outputs, inputs, device=device, dtype=torch.float32)
    best = float("inf")
    for _ in range(4):
        started = perf_counter()
        with torch.no_grad():
            linear(x, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, perf_counter() - started)
    return 2 * rows * inputs * outputs / best / 1e9


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _devices() -> list[str]:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ["cpu", *names, *(["mps"] if torch.backends.mps.is_available() else [])]
