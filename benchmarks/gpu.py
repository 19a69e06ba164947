"""On a GPU: steps, decode and each Triton kernel beside their limits and diffusers; bfloat16, random weights.

    python benchmarks/gpu.py [--models 0.6b,1.6b] [--sizes 1024,4096] [--runs 20] [--write]
                             [--peak TFLOPS --bandwidth TB/s]

A step has guidance, with 1 token of an empty negative prompt and 30 of a prompt; diffusers pads each to 300.
Its limit is the time of the arithmetic it needs (sanakit/bench/floors.py) at the device's bfloat16 peak,
without sparsity; a kernel's is the time to move each of its values once. Wall-clock times, with launching.
All sides of a table take turns in one process. Exits with code 2 where there is no NVIDIA GPU.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import side_by_side as side

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS, PADDED = (1, 30), 300  # of the negative prompt and of the prompt; what diffusers makes of each
OURS = "ours"
DEVICES = {  # bfloat16 FLOP/s without sparsity and bytes/s, from NVIDIA's data sheets of the SXM modules
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.04e12),
}
STEP_TARGETS = {("0.6b", 1024): 0.40, ("1.6b", 1024): 0.55, ("1.6b", 4096): 0.50}  # fractions of the limit
DECODE_TARGET = 0.35

Call = Callable[[], Any]


@dataclass(frozen=True)
class Device:
    """What a device could do at best."""

    name: str
    flops: float  # a second, bfloat16
    bytes: float  # a second


def main() -> None:
    """Measure what was asked for."""
    parser = side.parser_of(__doc__)
    parser.set_defaults(runs=20, depth=None)
    parser.add_argument("--models", default="0.6b,1.6b")
    parser.add_argument("--sizes", type=side.numbers, default=[1024, 4096], help="sides in pixels")
    parser.add_argument("--peak", type=float, help="TFLOP/s in bfloat16, of a device that is not listed here")
    parser.add_argument("--bandwidth", type=float, help="TB/s, likewise")
    asked = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit(_refuse("Unmeasured: benchmarks/gpu.py needs an NVIDIA GPU and a torch built for CUDA."))
    device = known_device(torch.cuda.get_device_name(), asked.peak, asked.bandwidth)
    if device is None:
        sys.exit(_refuse(f"{torch.cuda.get_device_name()} is not listed: give its --peak and --bandwidth."))
    from random_weights import random_folder

    torch.set_grad_enabled(False)
    what = (
        f"{device.name}: {device.flops / 1e12:.0f} TFLOP/s, {device.bytes / 1e12:.2f} TB/s at best, bfloat16."
    )
    lines = side.heading("On a GPU", what)
    for model in asked.models.split(","):
        folder = Path(asked.folder or random_folder(model=model, text_layers=1, depth=asked.depth))
        for size in asked.sizes:
            lines += step_table(folder, model, size, asked.runs, device)
            lines += kernel_table(folder, size, asked.runs, device)
    for size in asked.sizes:
        lines += decode_table(folder, size, max(3, asked.runs // 4), device)
    side.publish(lines, "gpu", write=asked.write)


def known_device(name: str, peak: float | None, bandwidth: float | None) -> Device | None:
    """Return the device called so. peak: TFLOP/s, bandwidth: TB/s, instead of those that are listed."""
    listed = next((limits for word, limits in DEVICES.items() if word in name), None)
    if listed is None and not (peak and bandwidth):
        return None
    flops, moved = listed or (0.0, 0.0)
    return Device(name, peak * 1e12 if peak else flops, bandwidth * 1e12 if bandwidth else moved)


def laid_out(times: side.Times, limit: float, target: float | None, errors: dict[str, float]) -> list[str]:
    """Lay out calls beside a limit in seconds. target: the fraction of it to reach; errors: of outputs."""
    ratios = side.compared(times, OURS)
    rows = []
    for name, values in times.items():
        fraction = limit / statistics.median(values)
        reached = "" if target is None or name != OURS else f" (target {target:.0%})"
        by_median, by_least = ratios[name]
        error = f"{errors[name]:.1e}" if name in errors else "-"
        rows.append(
            [
                name,
                f"{1e3 * statistics.median(values):.3f}",
                f"{1e3 * min(values):.3f}",
                f"{by_median:.2f} ({by_least:.2f})",
                f"{fraction:.0%}{reached}",
                error,
            ]
        )
    head = ["", "median ms", "min ms", "times ours: median (min)", "of the limit", "error"]
    return side.table(head, rows)


def step_table(folder: Path, model: str, size: int, runs: int, device: Device) -> list[str]:
    """One velocity with guidance: ours in all its ways, diffusers as it is and compiled."""
    import torch

    from sanakit.bench.floors import transformer_step
    from sanakit.weights import load_transformer

    cells = size // 32
    ours = load_transformer(folder, device="cuda", dtype=torch.bfloat16)
    torch.manual_seed(1)
    latents = torch.randn(1, ours.config.latent_channels, cells, cells, device="cuda")
    features = [torch.randn(n, ours.config.text_width, device="cuda").bfloat16() for n in TOKENS]
    calls = {**step_calls(ours, latents, features), **peer_steps(folder, latents, features)}
    errors = _errors(calls)
    times = side.interleave(calls, runs)
    limit = transformer_step(ours.config, cells, cells, TOKENS).flops / device.flops
    target = STEP_TARGETS.get((model, size)) if len(ours.blocks) > 1 else None
    title = (
        f"## Step with guidance, {model}, {size} px, {len(ours.blocks)} blocks: limit {1e3 * limit:.2f} ms"
    )
    gc.collect()
    return ["", title, "", *laid_out(times, limit, target, errors)]


def step_calls(ours: Any, latents: Tensor, features: list[Tensor]) -> dict[str, Call]:
    """Our step: as with compile=True, which compiles blocks and replays a graph, and with less than that."""
    import copy

    from sanakit.models.compiled import StepGraph, compile_sampling
    from sanakit.models.sana import Sana

    weights = {id(tensor): tensor for tensor in [*ours.parameters(), *ours.buffers()]}
    compiled = copy.deepcopy(ours, weights)
    compile_sampling(compiled, latents.device)
    context = ours.prepare(features)
    graph = StepGraph(ours.velocity, ours)

    def plain() -> Tensor:
        with twins():
            return ours.velocity(latents, 0.5, context)

    return {
        OURS: _timed(lambda: compiled.velocity(latents, 0.5, context)),
        "ours, compiled, no graph": _timed(lambda: Sana.velocity(compiled, latents, 0.5, context)),
        "ours, graph, not compiled": _timed(lambda: graph(latents, 0.5, context)),
        "ours, neither (the default)": _timed(lambda: ours.velocity(latents, 0.5, context)),
        "ours, neither, no kernels": _timed(plain),
    }


def peer_steps(folder: Path, latents: Tensor, features: list[Tensor]) -> dict[str, Call]:
    """The same step of diffusers."""
    import torch
    from diffusers import SanaTransformer2DModel

    load = SanaTransformer2DModel.from_pretrained
    theirs = load(folder, subfolder="transformer", torch_dtype=torch.bfloat16).to(latents.device).eval()
    padded = torch.zeros(len(features), PADDED, features[0].shape[1]).to(features[0])
    mask = torch.zeros(len(features), PADDED, dtype=torch.long, device=latents.device)
    for row, own in enumerate(features):
        padded[row, : len(own)], mask[row, : len(own)] = own, 1
    both = latents.bfloat16().repeat(len(features), 1, 1, 1)
    times = torch.full((len(features),), 500.0, device=latents.device)

    def call(model: Any) -> Call:
        kept = {"encoder_attention_mask": mask, "return_dict": False}
        return _timed(lambda: model(both, padded, times, **kept)[0])

    compiled = load(folder, subfolder="transformer", torch_dtype=torch.bfloat16).to(latents.device).eval()
    for block in compiled.transformer_blocks:
        block.compile(dynamic=False)
    return {"diffusers eager": call(theirs), "diffusers, torch.compile of each block": call(compiled)}


def decode_table(folder: Path, size: int, runs: int, device: Device) -> list[str]:
    """One image from latents: ours as the pipeline decodes, and diffusers."""
    import torch
    from diffusers import AutoencoderDC

    from sanakit.bench.floors import decoding
    from sanakit.weights import load_autoencoder

    ours = load_autoencoder(folder, part="decoder", device="cuda", dtype=torch.bfloat16)
    theirs = AutoencoderDC.from_pretrained(folder, subfolder="vae", torch_dtype=torch.bfloat16).to("cuda")
    torch.manual_seed(1)
    latents = torch.randn(1, ours.config.latent_channels, size // 32, size // 32, device="cuda").bfloat16()
    calls = {
        OURS: _timed(lambda: ours.decode(latents)),
        "diffusers eager": _timed(lambda: theirs.decode(latents, return_dict=False)[0]),
    }
    errors = _errors(calls)
    times = side.interleave(calls, runs)
    limit = decoding(ours.config, size // 32, size // 32, winograd=False).flops / device.flops
    title = f"## Decode, {size} px: limit {1e3 * limit:.2f} ms"
    return ["", title, "", *laid_out(times, limit, DECODE_TARGET, errors)]


def kernel_table(folder: Path, size: int, runs: int, device: Device) -> list[str]:
    """Each kernel beside its plain twin, at the sizes of a guided step."""
    import torch

    from sanakit.weights.settings import load_configs

    config = load_configs(folder)[0]
    lines = ["", f"## Kernels, width {config.width}, {size} px", ""]
    for name, (call, moved) in kernel_calls(config, size // 32, "cuda", torch.bfloat16).items():
        limit = moved / device.bytes
        pair = {OURS: _timed(call), "plain twin": _timed(_plainly(call))}
        table = laid_out(side.interleave(pair, runs), limit, None, {})
        lines += ["", f"{name}: {moved / 1e6:.0f} MB, limit {1e3 * limit:.3f} ms", "", *table]
    return lines


def kernel_calls(config: Any, cells: int, place: str, dtype: torch.dtype) -> dict[str, tuple[Call, int]]:
    """Each operation on a guided step's tensors, and the bytes that it has to move."""
    import torch

    from sanakit.ops.gated_depthwise import gated_depthwise
    from sanakit.ops.linear_attention import attend, attention_sums
    from sanakit.ops.modulation import add_gated_, modulated_norm

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=place, dtype=dtype)

    tokens, hidden = cells * cells, int(config.width * config.mlp_ratio)
    x, y, gate = drawn(2, tokens, config.width), drawn(2, tokens, config.width), drawn(1, 1, config.width)
    qkv = drawn(2, tokens, 3 * config.width)
    heads = (part.unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for part in qkv.chunk(3, -1))
    query, key, value = heads
    sums = attention_sums(key, value)
    rows, weight, bias = drawn(2, cells, cells, 2 * hidden), drawn(2 * hidden, 1, 3, 3), drawn(2 * hidden)
    one = x.nbytes
    return {
        "norm and modulation": (lambda: modulated_norm(x, gate, gate), 2 * one),
        "sums of linear attention": (lambda: attention_sums(key, value), 2 * one),
        "queries of linear attention": (lambda: attend(query, sums).to(query.dtype), 2 * one),
        "SiLU, depthwise 3x3, gate": (lambda: gated_depthwise(rows, weight, bias), rows.nbytes * 3 // 2),
        "gate and residual": (lambda: add_gated_(x, y, gate), 3 * one),
    }


@contextmanager
def twins() -> Iterator[None]:
    """Let the plain twins run in place of the kernels."""
    from sanakit.ops import gpu

    before, gpu.TRITON = gpu.TRITON, False
    try:
        yield
    finally:
        gpu.TRITON = before


def _plainly(call: Call) -> Call:
    def plain() -> Any:
        with twins():
            return call()

    return plain


def _timed(call: Call) -> Call:
    """The same call, over when the device is done."""
    import torch

    def waited() -> Any:
        result = call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result

    return waited


def _errors(calls: dict[str, Call]) -> dict[str, float]:
    """Differences from the first call that is not ours; after three calls all is compiled and captured."""
    outputs = {name: [call() for _ in range(3)][-1].float() for name, call in calls.items()}
    reference = next(output for name, output in outputs.items() if not name.startswith(OURS))
    return {name: side.relative_error(output, reference) for name, output in outputs.items()}


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
