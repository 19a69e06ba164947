"""Each stage of drawing beside its peers: text, transformer step, decode; float32 on the same weights.

    python benchmarks/stages.py [--stages text,step,decode] [--sizes 512,1024] [--runs 5] [--threads 1]
                                [--peers eager,blocks,whole,openvino] [--write]
    python benchmarks/stages.py --plan int8 --stages step --peers eager,openvino,openvino-int8

Outputs are compared before anything is timed. All sides of a stage take turns in one process, together with a
plain matrix product, whose rate says how fast this machine is just then: the share of it that a side reaches
counts the work that the stage needs (sanakit/bench/floors.py), not the work that the side does.
All compute in float32; ours leaves the weights in their file in 16 bits, as its pipeline does, and widens
them on the way, while the peers hold them in float32. With --plan our text encoder and transformer are there
once more, quantised; every output is compared with that of diffusers in float32.
A step has guidance: 1 token of an empty negative prompt and 30 of a prompt, which diffusers pads to 300 each.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import side_by_side as side

if TYPE_CHECKING:
    import peers
    from torch import Tensor

    from sanakit.bench.floors import Work
    from sanakit.models.sana import SanaConfig

OURS = "ours"
TOKENS = (1, 30)  # of the negative prompt and of the prompt
PADDED = 300
TEXT_LAYERS = 26  # of the real Gemma 2
SAMPLED = (1.0, 0.9, 0.75, 0.6, 0.5, 0.4, 0.25, 0.1)  # times of the samples that calibrate OpenVINO int8


@dataclass(frozen=True)
class Stage:
    """One stage: what it needs and who does it. The first call is the one that others are compared with in
    time, the first that is not ours the one in output.
    """

    title: str
    work: Work
    plain: Work  # the same with plain convolutions, where that differs
    rows: int  # of the matrix product that is timed beside it
    calls: dict[str, Callable[[], Tensor]]
    note: str = ""


def main() -> None:
    """Measure the stages that were asked for."""
    parser = side.parser_of(__doc__)
    parser.add_argument("--stages", default="text,step,decode")
    parser.add_argument("--sizes", type=side.numbers, default=[512, 1024], help="sides in pixels")
    parser.add_argument("--peers", default="eager,blocks,openvino")
    parser.add_argument("--plan", help="ours quantised by this plan, as one more side")
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    from random_weights import random_folder

    folder = Path(asked.folder or random_folder(text_layers=asked.text_layers, depth=asked.depth))
    peers, names = asked.peers.split(","), asked.stages.split(",")
    lines = side.heading("Stages side by side", f"{asked.threads} thread(s), model {folder.name}, float32.")
    if "text" in names:
        lines += measure(text_stage(folder, asked.plan), asked.runs)
    for pixels in asked.sizes:
        if "step" in names:
            lines += measure(step_stage(folder, pixels // 32, peers, asked.plan), asked.runs)
            gc.collect()
        if "decode" in names:
            lines += measure(decode_stage(folder, pixels // 32, peers), asked.runs)
            gc.collect()
    what = "-".join([*names, *([asked.plan] if asked.plan else []), *map(str, asked.sizes)])
    side.publish(lines, f"{asked.threads}-threads-{what}", write=asked.write)


def measure(stage: Stage, runs: int) -> list[str]:
    """Compare the outputs, time all calls in turn, and lay out the table."""
    print(f"{stage.title} ...", flush=True)
    outputs = {name: call() for name, call in stage.calls.items()}
    first = next(iter(stage.calls))
    reference = next(name for name in stage.calls if not name.startswith(OURS))
    errors = {
        name: [f"{error(output, outputs[reference]):.1e}" for error in (side.relative_error, side.rms_error)]
        for name, output in outputs.items()
        if name != reference
    }
    del outputs
    products, flops = side.matrix_products(stage.rows)
    times = side.interleave({**stage.calls, **products}, runs)
    medians = {name: statistics.median(values) for name, values in times.items()}
    rates = {name: flops / min(times[name]) for name in products}
    ratios = side.compared(times, first)
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
                *errors.get(name, ["-", "-"]),
            ]
        )
    head = ["", "median s", "min s", f"times {first}: median (min)", "needed GFLOP/s", "floor / min"]
    head += [f"largest error against {reference}", "rms error"]
    lines = ["", f"## {stage.title}", "", *filter(None, [needs(stage), stage.note])]
    lines += [
        "Matrix product in the same run: "
        + ", ".join(f"{name.split()[-1]} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
        + f"; at the higher rate the floor is {stage.work.flops / best:.3f} s.",
        "",
    ]
    lines += side.table(head, rows)
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


def quantised(folder: Path, plan: str | None, name: str) -> dict[str, Any]:
    """Return a part of our pipeline quantised by a plan, by the name of its side; nothing without a plan."""
    from sanakit import TextToImage

    return {f"{OURS} {plan}": getattr(TextToImage.from_pretrained(folder, plan=plan), name)} if plan else {}


def text_stage(folder: Path, plan: str | None = None) -> Stage:
    """A prompt of 20 tokens and the empty negative prompt; the instruction's keys and values are known."""
    import peers
    import torch
    from random_weights import PROMPT

    from sanakit.bench.floors import text_encoding
    from sanakit.weights import load_text_encoder

    encoder = load_text_encoder(folder, mapped=True)
    config = encoder.model.config
    past, new = len(encoder.instructed.prefix), len(encoder.tokenize([PROMPT])[0])
    diffusers = peers.text(folder, PROMPT)
    work = text_encoding(config, new, past)
    layers = f"{config.depth} of {TEXT_LAYERS} layers: multiply seconds by {TEXT_LAYERS / config.depth:.2f}"
    prompt_tokens = len(encoder.tokenizer.encode(PROMPT).ids) - 1

    def encode(ours: Any) -> Tensor:
        return torch.cat(ours.encode([PROMPT]) + ours.encode_negative([""]))

    ours = {**quantised(folder, plan, "text_encoder"), OURS: encoder}
    return Stage(
        f"Text: a prompt of {prompt_tokens} tokens ({layers})",
        work,
        work,
        512,
        {
            **{name: partial(encode, one) for name, one in ours.items()},
            peers.NAMES[peers.EAGER]: lambda: torch.cat(diffusers()),
        },
    )


def step_stage(folder: Path, cells: int, wanted: list[str], plan: str | None = None) -> Stage:
    """One velocity with guidance, half way from noise to an image."""
    import peers

    from sanakit.bench.floors import transformer_step
    from sanakit.weights import load_transformer

    model = load_transformer(folder, mapped=True)
    config = model.config
    features, inputs = step_inputs(config, cells, 0.5, seed=1)
    samples = [step_inputs(config, cells, t, seed)[1] for seed, t in enumerate(SAMPLED, 2)]
    latents = inputs[0][:1]
    work = transformer_step(config, cells, cells, TOKENS)

    def velocity(ours: Any, context: Any) -> Tensor:
        return ours.velocity(latents, 0.5, context)

    ours = {**quantised(folder, plan, "transformer"), OURS: model}
    return Stage(
        f"Transformer step with guidance, {32 * cells} px, {config.depth} blocks",
        work,
        work,
        2 * cells * cells,
        {
            **{name: partial(velocity, one, one.prepare(features)) for name, one in ours.items()},
            **peers.transformer_step(folder, wanted, inputs, samples),
        },
        peers.INT8_HOW if peers.OPENVINO_INT8 in wanted else "",
    )


def step_inputs(config: SanaConfig, cells: int, t: float, seed: int) -> tuple[list[Tensor], peers.Inputs]:
    """Text features as ours takes them, and what the peers take, which begins with the latents, twice."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 1, config.latent_channels, cells, cells, generator=generator)
    latents = ((1 - t) * clean + t * noise).repeat(2, 1, 1, 1)
    features = [torch.randn(count, config.text_width, generator=generator) for count in TOKENS]
    padded = torch.zeros(2, PADDED, config.text_width)
    mask = torch.zeros(2, PADDED, dtype=torch.long)
    for row, own in enumerate(features):
        padded[row, : len(own)], mask[row, : len(own)] = own, 1
    return features, (latents, padded, mask, torch.full((2,), 1000 * t))


def decode_stage(folder: Path, cells: int, wanted: list[str]) -> Stage:
    """One image from latents."""
    import peers
    import torch

    from sanakit.bench.floors import decoding
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
