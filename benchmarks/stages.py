"""Each stage of drawing beside its peers: text, transformer step, decode; float32 on the same weights.

    python benchmarks/stages.py [--stages text,step,decode] [--sizes 512,1024] [--runs 5] [--threads 1]
                                [--peers eager,blocks,whole,openvino] [--write]

Outputs are compared before anything is timed. All sides of a stage take turns in one process, together with a
plain matrix product, whose rate says how fast this machine is just then: the share of it that a side reaches
counts the work that the stage needs (sanakit/eval/floors.py), not the work that the side does.
All compute in float32; ours leaves the weights in their file in 16 bits, as its pipeline does, and widens
them on the way, while the peers hold them in float32.
A step has guidance: 1 token of an empty negative prompt and 30 of a prompt, which diffusers pads to 300 each.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import side_by_side as side

if TYPE_CHECKING:
    from torch import Tensor

    from sanakit.eval.floors import Work

OURS = "ours"
TOKENS = (1, 30)  # of the negative prompt and of the prompt
PADDED = 300
TEXT_LAYERS = 26  # of the real Gemma 2


@dataclass(frozen=True)
class Stage:
    """One stage: what it needs and who does it; outputs are compared with the first call that is not ours."""

    title: str
    work: Work
    plain: Work  # the same with plain convolutions, where that differs
    rows: int  # of the matrix product that is timed beside it
    calls: dict[str, Callable[[], Tensor]]


def main() -> None:
    """Measure the stages that were asked for."""
    parser = side.parser_of(__doc__)
    parser.add_argument("--stages", default="text,step,decode")
    parser.add_argument("--sizes", type=side.numbers, default=[512, 1024], help="sides in pixels")
    parser.add_argument("--peers", default="eager,blocks,openvino")
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    from random_weights import random_folder

    folder = Path(asked.folder or random_folder(text_layers=asked.text_layers, depth=asked.depth))
    peers, names = asked.peers.split(","), asked.stages.split(",")
    lines = side.heading("Stages side by side", f"{asked.threads} thread(s), model {folder.name}, float32.")
    if "text" in names:
        lines += measure(text_stage(folder), asked.runs)
    for pixels in asked.sizes:
        for name, make in (("step", step_stage), ("decode", decode_stage)):
            if name in names:
                lines += measure(make(folder, pixels // 32, peers), asked.runs)
                gc.collect()
    what = "-".join([*names, *map(str, asked.sizes)])
    side.publish(lines, f"{asked.threads}-threads-{what}", write=asked.write)


def measure(stage: Stage, runs: int) -> list[str]:
    """Compare the outputs, time all calls in turn, and lay out the table."""
    print(f"{stage.title} ...", flush=True)
    outputs = {name: call() for name, call in stage.calls.items()}
    reference = next(name for name in stage.calls if name != OURS)
    errors = {name: side.relative_error(output, outputs[reference]) for name, output in outputs.items()}
    del outputs
    products, flops = side.matrix_products(stage.rows)
    times = side.interleave({**stage.calls, **products}, runs)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rates = {name: flops / min(times[name]) for name in products}
    ratios = side.compared(times, OURS)
    best = max(rates.values())
    rows = []
    for name in stage.calls:
        rate = stage.work.flops / min(times[name])
        by_median, by_least = ratios[name]
        rows.append(
            [
                name,
                f"{medians[name]:.3f}",
                f"{min(times[name]):.3f}",
                f"{by_median:.2f} ({by_least:.2f})",
                f"{rate / 1e9:.0f}",
                f"{rate / best:.0%}",
                f"{errors[name]:.1e}" if name != reference else "-",
            ]
        )
    head = ["", "median s", "min s", "times ours: median (min)", "needed GFLOP/s", "floor / min"]
    lines = ["", f"## {stage.title}", "", needs(stage)]
    lines += [
        "Matrix product in the same run: "
        + ", ".join(f"{name.split()[-1]} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
        + f"; at the higher rate the floor is {stage.work.flops / best:.3f} s.",
        "",
    ]
    lines += side.table([*head, f"error against {reference}"], rows)
    print("\n".join(lines), flush=True)
    return lines


def needs(stage: Stage) -> str:
    """Say what the stage needs."""
    work = stage.work
    text = (
        f"Needs {work.flops / 1e9:.0f} GFLOP; {4 * work.weights / 1e9:.2f} GB of weights and "
        f"{4 * work.activations / 1e9:.2f} GB in and out of products, in float32."
    )
    if stage.plain.flops != work.flops:
        text += f" With plain instead of Winograd convolutions {stage.plain.flops / 1e9:.0f} GFLOP."
    return text


def text_stage(folder: Path) -> Stage:
    """A prompt of 20 tokens and the empty negative prompt; the instruction's keys and values are known."""
    import peers
    import torch
    from random_weights import PROMPT

    from sanakit.eval.floors import text_encoding
    from sanakit.weights import load_text_encoder

    encoder = load_text_encoder(folder, mapped=True)
    config = encoder.model.config
    past, new = len(encoder.instructed.prefix), len(encoder.tokenize([PROMPT])[0])
    diffusers = peers.text(folder, PROMPT)
    work = text_encoding(config, new, past)
    layers = f"{config.depth} of {TEXT_LAYERS} layers: multiply seconds by {TEXT_LAYERS / config.depth:.2f}"
    prompt_tokens = len(encoder.tokenizer.encode(PROMPT).ids) - 1
    return Stage(
        f"Text: a prompt of {prompt_tokens} tokens ({layers})",
        work,
        work,
        512,
        {
            OURS: lambda: torch.cat(encoder.encode([PROMPT]) + encoder.encode_negative([""])),
            peers.NAMES[peers.EAGER]: lambda: torch.cat(diffusers()),
        },
    )


def step_stage(folder: Path, cells: int, wanted: list[str]) -> Stage:
    """One velocity with guidance."""
    import peers
    import torch

    from sanakit.eval.floors import transformer_step
    from sanakit.weights import load_transformer

    model = load_transformer(folder, mapped=True)
    config = model.config
    torch.manual_seed(1)
    latents = torch.randn(1, config.latent_channels, cells, cells).repeat(2, 1, 1, 1)
    features = [torch.randn(count, config.text_width) for count in TOKENS]
    padded = torch.zeros(2, PADDED, config.text_width)
    mask = torch.zeros(2, PADDED, dtype=torch.long)
    for row, own in enumerate(features):
        padded[row, : len(own)], mask[row, : len(own)] = own, 1
    inputs = (latents, padded, mask, torch.tensor([500.0, 500.0]))
    context = model.prepare(features)
    work = transformer_step(config, cells, cells, TOKENS)
    return Stage(
        f"Transformer step with guidance, {32 * cells} px, {config.depth} blocks",
        work,
        work,
        2 * cells * cells,
        {
            OURS: lambda: model.velocity(latents[:1], 0.5, context),
            **peers.transformer_step(folder, wanted, inputs),
        },
    )


def decode_stage(folder: Path, cells: int, wanted: list[str]) -> Stage:
    """One picture from latents."""
    import peers
    import torch

    from sanakit.eval.floors import decoding
    from sanakit.weights import load_autoencoder

    model = load_autoencoder(folder, part="decoder", mapped=True)
    torch.manual_seed(1)
    latents = torch.randn(1, model.config.latent_channels, cells, cells)
    wanted = [name for name in wanted if name != peers.BLOCKS]  # its blocks all differ
    return Stage(
        f"Decode, {32 * cells} px",
        decoding(model.config, cells, cells),
        decoding(model.config, cells, cells, winograd=False),
        2 * cells * cells,
        {OURS: lambda: model.decode(latents), **peers.decoder(folder, wanted, latents)},
    )


if __name__ == "__main__":
    main()
