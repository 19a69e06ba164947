"""How much memory each side takes: decode, and the whole pipeline; each in a fresh process.

    python benchmarks/memory.py [--sizes 512,1024] [--ours-only 4096] [--pipeline] [--text-layers 26]
    python benchmarks/memory.py --sizes "" --pipeline --plan int8 --text-layers 26

Decode: resident memory at its peak, above what is resident once the decoder is loaded and has drawn 64 px;
the encoder is dropped on both sides. Pipeline: the peak of the whole process from its start, at 512 px,
from a checkpoint in bfloat16, which diffusers widens to float32; two steps, since the others need no more.
With --plan ours draws quantised as well: when that is loaded, and as `sana quantize` saved it.
Resident memory holds pages of the mapped weight files, which the system takes back when another program
needs memory; the anonymous part (looked at every 5 ms) can only be swapped out. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import side_by_side as side

SIDES = ("ours", "diffusers")
WARM_UP = 2  # latent cells a side: 64 px
STEPS = 2


def main() -> None:
    """Start a process for each figure and print the tables; or be such a process."""
    parser = side.parser_of(__doc__)
    parser.add_argument("--sizes", type=side.numbers, default=[512, 1024], help="of the decode, both sides")
    parser.add_argument("--ours-only", type=side.numbers, default=[], help="further sizes, ours alone")
    parser.add_argument("--pipeline", action="store_true", help="measure the whole pipeline as well")
    parser.add_argument("--plan", help="our pipeline quantised by this plan as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        side.use_threads(asked.threads)
        who, what, size = asked.child.split(",")
        print(json.dumps(child(who, what, size, asked.folder, asked.plan)))
        return
    folder = asked.folder or _made(asked.text_layers, asked.depth)
    jobs = [(who, "decode", size) for size in asked.sizes for who in SIDES]
    jobs += [("ours", "decode", size) for size in asked.ours_only]
    found = {job: _run(*job, folder, asked.threads) for job in jobs}
    lines = [
        f"# Memory, {date.today()}",
        "",
        f"{side.machine()}, {asked.threads} thread(s), model {Path(folder).name}, float32.",
        f"Command: `python benchmarks/memory.py {' '.join(sys.argv[1:])}`",
        "",
        *(["## Decode, above the loaded decoder", "", *_decode_table(found)] if found else []),
    ]
    if asked.pipeline:
        whole = {who: _run(who, "pipeline", 512, folder, asked.threads) for who in SIDES}
        if plan := asked.plan:
            loaded, saved = f"ours {plan}, quantised when loaded", f"ours {plan}, from a saved folder"
            whole[loaded] = _run("ours", "pipeline", 512, folder, asked.threads, plan)
            with tempfile.TemporaryDirectory() as place:
                own = _quantized(folder, plan, place)
                whole[saved] = _run("ours", "pipeline", 512, own, asked.threads)
        lines += ["", "## Whole pipeline, 512 px, from the start of the process", "", *_pipeline_table(whole)]
    name = "-".join(["memory", *([asked.plan] if asked.plan else [])])
    side.publish(lines, f"{asked.threads}-threads-{name}", write=asked.write)


def child(who: str, what: str, size: str, folder: str, plan: str | None) -> dict[str, float]:
    """Do one job in this process; gives megabytes and seconds."""
    if what == "decode":
        load, cells = {"ours": _our_decoder, "diffusers": _their_decoder}[who], int(size) // 32
        decode = load(Path(folder))
        decode(WARM_UP)
        give_back()
        base = memory("VmRSS"), memory("RssAnon")
        reset_peak()
        return _watched(lambda: decode(cells), *base)
    draw = {"ours": partial(_our_pipeline, plan=plan), "diffusers": _their_pipeline}[who]
    return _watched(lambda: draw(Path(folder), int(size)), 0.0, 0.0)


def memory(field: str) -> float:
    """Read one of this process's figures (VmRSS, VmHWM, RssAnon, ...) in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def give_back() -> None:
    """Return freed memory to the system: a heap that loading left behind would hide what decoding takes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> None:
    """Let VmHWM, the peak of resident memory, begin from scratch."""
    Path("/proc/self/clear_refs").write_text("5")


def _watched(call: Any, base: float, anonymous_base: float) -> dict[str, float]:
    """Call, watching memory: megabytes at the peak, less what was there before."""
    most, done = memory("RssAnon"), threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    peak = memory("VmHWM")
    return {
        "base": base,
        "peak": peak - base,
        "anonymous": max(most, memory("RssAnon")) - anonymous_base,
        "seconds": seconds,
    }


def _our_decoder(folder: Path) -> Any:
    import torch

    from sanakit.models.dc_ae.stream import decode_rows
    from sanakit.weights import load_autoencoder

    model = load_autoencoder(folder, part="decoder")

    def decode(cells: int) -> object:
        latents = torch.randn(1, model.config.latent_channels, cells, cells)
        if cells <= 32:
            return model.decode(latents)
        # As the pipeline does it: an image this large never exists in float.
        picture = torch.empty(3, 32 * cells, 32 * cells, dtype=torch.uint8)
        start = 0
        for rows in decode_rows(model, latents):
            end = start + rows.shape[2]
            picture[:, start:end] = (rows[0].clamp(-1, 1) * 127.5 + 127.5).round()
            start = end
        return picture

    return decode


def _their_decoder(folder: Path) -> Any:
    import torch
    from diffusers import AutoencoderDC

    model = AutoencoderDC.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    del model.encoder

    def decode(cells: int) -> object:
        return model.decode(torch.randn(1, model.config["latent_channels"], cells, cells), return_dict=False)

    return decode


def _our_pipeline(folder: Path, size: int, plan: str | None) -> None:
    from random_weights import PROMPT

    from sanakit import TextToImage

    pipe = TextToImage.from_pretrained(folder, plan=plan)
    pipe(PROMPT, seed=0, width=size, height=size, steps=STEPS, binned=False)


def _their_pipeline(folder: Path, size: int) -> None:
    import torch
    from diffusers import SanaPipeline
    from random_weights import PROMPT

    pipe = SanaPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe(PROMPT, width=size, height=size, num_inference_steps=STEPS, use_resolution_binning=False)


def _made(text_layers: int, depth: int) -> str:
    """Make the random weights in a process of their own: this one stays small."""
    words = ["--text-layers", str(text_layers), "--depth", str(depth)]
    script = Path(__file__).with_name("random_weights.py")
    done = subprocess.run([sys.executable, script, *words], check=True, capture_output=True, text=True)
    return done.stdout.rpartition("  ")[0]


def _quantized(folder: str, plan: str, place: str) -> str:
    """As `_made`: saved quantised by `sana quantize` in another process."""
    words = ["quantize", folder, f"{place}/{plan}", "--plan", plan]
    script = "from sanakit.cli import main; main()"
    subprocess.run([sys.executable, "-c", script, *words], check=True, stdout=subprocess.DEVNULL)
    return words[2]


def _run(
    who: str, what: str, size: int, folder: str, threads: int, plan: str | None = None
) -> dict[str, float]:
    print(f"{who}, {what}, {size} px ...", flush=True)
    words = ["--child", f"{who},{what},{size}", "--folder", folder, "--threads", str(threads)]
    words += ["--plan", plan] if plan else []
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:  # negative: killed, by the system when memory is out
        print(f"failed ({done.returncode}): {done.stderr[-600:]}", file=sys.stderr)
        return dict.fromkeys(("base", "peak", "anonymous", "seconds"), float("nan"))
    return json.loads(done.stdout.splitlines()[-1])


def _decode_table(found: dict[tuple[str, str, int], dict[str, float]]) -> list[str]:
    rows = []
    for (who, what, size), figures in found.items():
        theirs = found.get(("diffusers", what, size))
        share = f"{figures['peak'] / theirs['peak']:.2f}" if theirs else "-"
        rows.append([size, who, *_figures(figures), share, f"{figures['seconds']:.1f}"])
    head = ["px", "", "loaded MB", "peak above MB", "of it anonymous MB", "peak / diffusers", "seconds"]
    return side.table(head, rows)


def _pipeline_table(whole: dict[str, dict[str, float]]) -> list[str]:
    rows = [
        [who, *_figures(figures)[1:], f"{figures['peak'] / whole['diffusers']['peak']:.3f}"]
        for who, figures in whole.items()
    ]
    return side.table(["", "peak MB", "anonymous MB", "peak / diffusers"], rows)


def _figures(figures: dict[str, float]) -> list[str]:
    return [f"{figures[name]:.0f}" for name in ("base", "peak", "anonymous")]


if __name__ == "__main__":
    main()
