"""Every plan in one table: how like the images stay, and what it saves in bytes, seconds and memory.

    python benchmarks/plans.py [--plans int8,int4] [--prompts 200] [--depth 28] [--runs 3] [--write]
                               [--docs]
    python benchmarks/plans.py --device cuda --write

Pocket is real: its images, each from its own seed, are compared with those in float32 and looked up among
real images (sanakit/pocket/evaluate/recognition.py). SANA 0.6B at 512 px with guidance is made of random
numbers, which tell what a step costs and how far one velocity is off. Both are read from what `sana
quantize` saved. Seconds are the least of calls in turn in one process; peak memory is that of a fresh process
that draws one image: resident memory, mapped files included, or what a GPU held.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import memory
import side_by_side as side
from stages import step_inputs

FLOAT = "float32"  # the first row, which others are compared with
CELLS = 16  # of a side of the 0.6B model's latents: 512 px
PROMPT = "a red apple"
PAGE = Path(__file__).parents[1] / "docs" / "quantize.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"

Rows = dict[str, dict[str, str]]  # figures by plan, then by column


def main() -> None:
    """Fill the table; or be the process whose memory is looked at."""
    parser = side.parser_of(__doc__)
    parser.add_argument("--plans", help="default: all; float32 is always there")
    parser.add_argument("--prompts", type=int, default=200, help="of pocket's 200, from the first")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/quantize.md as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    if asked.child:
        print(json.dumps(peak_megabytes(asked.folder, asked.child, asked.device)))
        return
    from random_weights import random_folder

    from sanakit.quant.plans import PLANS

    plans = asked.plans.split(",") if asked.plans else list(PLANS)
    large = Path(asked.folder or random_folder(text_layers=1, depth=asked.depth))
    with tempfile.TemporaryDirectory() as place:
        small_rows = pocket_rows(plans, asked, Path(place))
        large_rows = full_rows(plans, large, asked, Path(place))
    figures = layout({name: row | large_rows[name] for name, row in small_rows.items()})
    what = f"{asked.threads} thread(s) on {asked.device}; pocket: {asked.prompts} prompts; 0.6B: {large.name}"
    lines = [*side.heading("Plans", f"{what}."), "", *figures]
    side.publish(lines, f"{asked.threads}-threads-{asked.device}-plans", write=asked.write)
    if asked.docs:
        before, rest = PAGE.read_text().split(BEGIN)
        date, machine = lines[0].rpartition(" ")[2], lines[2].partition(". ")[0]
        text = "\n".join([f"{date}, {machine}, {what}:", "", *figures])
        PAGE.write_text(f"{before}{BEGIN}{text}\n{END}{rest.split(END)[1]}")


def pocket_rows(plans: Iterable[str], asked: Any, place: Path) -> Rows:
    """Images of pocket by each plan: likeness, recognition, bytes, seconds, memory."""
    from sanakit.eval.metrics.similarity import psnr
    from sanakit.eval.networks.efficientnet import load_efficientnet
    from sanakit.pocket.evaluate.recognition import Shares
    from sanakit.pocket.evaluate.reference import load_reference
    from sanakit.pocket.evaluate.report import drawing, recognise
    from sanakit.weights import CATALOG, save_quantized

    source = CATALOG["pocket"].folder
    assert source is not None
    folders = {FLOAT: source}
    folders |= {plan: save_quantized(source, place / f"pocket-{plan}", plan) for plan in plans}
    network, reference = load_efficientnet(), load_reference()
    pipes = {name: loaded(folder, name, asked.device) for name, folder in folders.items()}
    rows: Rows = {}
    for name, pipe in pipes.items():
        print(f"pocket, {name} ...", flush=True)
        found = recognise(
            drawing(pipe), network, reference.gallery, reference.prompts, range(asked.prompts), seed=0
        )
        if name == FLOAT:
            exact, likeness = found.images, ("-", "-")
        else:
            decibels = psnr(found.images, exact)
            likeness = (f"{decibels.mean():.1f}", f"{decibels.min():.1f}")
        rows[name] = {
            "PSNR mean dB": likeness[0],
            "least": likeness[1],
            "recognised": f"{Shares.of(found.ranks).top1:.1%}",
            "transformer MB": f"{megabytes(folders[name] / 'transformer'):.1f}",
            "text encoder MB": f"{megabytes(folders[name] / 'text_encoder'):.1f}",
        }
    times = side.interleave({name: partial(pipe, PROMPT, seed=0) for name, pipe in pipes.items()}, asked.runs)
    for name, row in rows.items():
        row["s a picture"] = f"{min(times[name]):.2f}"
        row["peak MB"] = f"{_in_a_process(folders[name], name, asked):.0f}"
    return rows


def full_rows(plans: Iterable[str], folder: Path, asked: Any, place: Path) -> Rows:
    """One velocity of a large model by each plan: its error, bytes and seconds."""
    from sanakit.weights import save_quantized

    transformers = {FLOAT: loaded(folder, FLOAT, asked.device).transformer}
    sizes = {FLOAT: megabytes(folder / "transformer")}
    for plan in plans:
        print(f"0.6B, {plan} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=place) as made:  # what is mapped stays, and nothing else
            own = save_quantized(folder, Path(made) / "model", plan)
            sizes[plan] = megabytes(own / "transformer")
            transformers[plan] = loaded(own, plan, asked.device).transformer
    features, inputs = step_inputs(transformers[FLOAT].config, CELLS, 0.5, seed=1)
    latents, features = inputs[0][:1].to(asked.device), [text.to(asked.device) for text in features]
    calls = {
        name: partial(one.velocity, latents.to(one.dtype), 0.5, one.prepare(features))
        for name, one in transformers.items()
    }
    outputs = {name: call().float() for name, call in calls.items()}
    times = side.interleave({name: partial(_waited, call) for name, call in calls.items()}, asked.runs)
    return {
        name: {
            "0.6B: error of velocity": f"{side.rms_error(outputs[name], outputs[FLOAT]):.1%}",
            "transformer file MB": f"{sizes[name]:.0f}",
            "s a step": f"{min(times[name]):.2f}",
        }
        for name in calls
    }


def loaded(folder: Path, name: str, device: str) -> Any:
    """Return the pipeline of a folder; unquantised layers compute in float32 on a CPU."""
    from sanakit import TextToImage

    dtype = FLOAT if name == FLOAT else "auto"
    return TextToImage.from_pretrained(folder, device=device, dtype=dtype, memory="all")


def peak_megabytes(folder: str, name: str, device: str) -> float:
    """Draw one image in this process and tell what it took at most."""
    import torch

    loaded(Path(folder), name, device)(PROMPT, seed=0)
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else memory.memory("VmHWM")


def megabytes(folder: Path) -> float:
    """Bytes of the weight files, in 1e6."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def layout(rows: Rows) -> list[str]:
    """One row a plan."""
    return side.table(["", *rows[FLOAT]], [[name, *row.values()] for name, row in rows.items()])


def _in_a_process(folder: Path, name: str, asked: Any) -> float:
    words = ["--child", name, "--folder", str(folder), "--device", asked.device]
    words += ["--threads", str(asked.threads)]
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _waited(call: Any) -> None:
    """A GPU goes on by itself: wait until it is done."""
    if call().is_cuda:
        import torch

        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
