"""Prompt to image: ours against diffusers on one model folder, in one run.

    python benchmarks/generate.py [FOLDER] [--runs 7] [--threads 1] [--write]

Three comparisons, each a ratio within this run:
- warm: both pipelines loaded in one process, called in turn on the same prompt, latents, steps and guidance;
- memory: each side alone in a fresh process, peak resident size after one image;
- cold: from process start to PNG on disk, beside what `import torch` alone takes.
Pixels of both sides are compared first: a faster wrong image is not a result. --write stores the tables under
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import side_by_side as side

PROMPT = "a red apple"
ROOT = Path(__file__).resolve().parent.parent

OURS_ALONE = """
from sanakit import TextToImage
pipe = TextToImage.from_pretrained({folder!r})
pipe({prompt!r}, seed=0).images[0].save({output!r})
"""
DIFFUSERS_ALONE = """
import torch
from diffusers import SanaPipeline
pipe = SanaPipeline.from_pretrained({folder!r}, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
seed = torch.Generator().manual_seed(0)
drawn = pipe({prompt!r}, generator=seed, use_resolution_binning=False, **{settings!r})
drawn.images[0].save({output!r})
"""


def main() -> None:
    """Run all comparisons and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default=str(ROOT / "sanakit/assets/pocket"))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    alone = _alone(asked.folder, min(asked.runs, 5))  # first, while this process is small
    lines = [
        f"# Prompt to picture, {date.today()}",
        "",
        f"{side.machine()}, {asked.threads} thread(s). Model: {Path(asked.folder).name}. Prompt: {PROMPT!r}.",
        f"Command: `python benchmarks/generate.py --runs {asked.runs} --threads {asked.threads} --write`",
        "",
        *_warm(asked.folder, asked.runs, asked.threads),
        "",
        *alone,
    ]
    print("\n".join(lines))
    if asked.write:
        name = f"{date.today()}-{platform.machine()}-{asked.threads}-threads-generate.md"
        target = ROOT / "benchmarks" / "results" / name
        target.parent.mkdir(exist_ok=True)
        target.write_text("\n".join(lines) + "\n")


def _warm(folder: str, runs: int, threads: int) -> list[str]:
    import numpy as np
    import torch
    from diffusers import SanaPipeline

    from sanakit import TextToImage

    torch.set_num_threads(threads)
    ours = TextToImage.from_pretrained(folder)
    theirs = SanaPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    settings = _settings(folder)
    latents = ours(PROMPT, seed=0, steps=1, output="latent").images
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))

    def draw_ours() -> np.ndarray:
        return np.asarray(ours(PROMPT, latents=noise).images[0], dtype=np.int16)

    def draw_theirs() -> np.ndarray:
        drawn = theirs(PROMPT, latents=noise.clone(), use_resolution_binning=False, **settings)
        return np.asarray(drawn.images[0], dtype=np.int16)

    apart = np.abs(draw_ours() - draw_theirs()).max()
    times: dict[str, list[float]] = {"ours": [], "diffusers": []}
    for _ in range(runs):
        for name, draw in (("ours", draw_ours), ("diffusers", draw_theirs)):
            started = time.perf_counter()
            draw()
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["diffusers"] / medians["ours"]
    least = min(times["diffusers"]) / min(times["ours"])
    steps = settings["num_inference_steps"]
    return [
        f"## Warm: both loaded, called in turn, {steps} steps, {settings['width']}x{settings['height']} px",
        "",
        "| | median s | min s |",
        "|---|---|---|",
        *(f"| {name} | {medians[name]:.3f} | {min(times[name]):.3f} |" for name in times),
        f"| **diffusers / ours** | **{ratio:.2f}** | {least:.2f} |",
        "",
        f"Largest difference of a pixel between both pictures: {apart} of 255.",
    ]


def _alone(folder: str, runs: int) -> list[str]:
    """Fresh processes. Run before torch is imported here: a child's peak begins with its parent's size."""
    target = ROOT / "benchmarks" / "drawn.png"
    words = {"folder": folder, "prompt": PROMPT, "settings": _settings(folder), "output": str(target)}
    programs = {
        "import torch": [sys.executable, "-c", "import torch"],
        "sana generate": [
            *(sys.executable, "-c", "from sanakit.cli import main; main()"),
            *("generate", PROMPT, "--model", folder, "--output", str(target)),
        ],
        "ours, Python": [sys.executable, "-c", OURS_ALONE.format(**words)],
        "diffusers, Python": [sys.executable, "-c", DIFFUSERS_ALONE.format(**words)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    peaks: dict[str, float] = {}
    for _ in range(runs):
        for name, command in programs.items():
            target.unlink(missing_ok=True)
            started = time.perf_counter()
            peaks[name] = _run(command)
            seconds[name].append(time.perf_counter() - started)
    target.unlink(missing_ok=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        "## Alone: a fresh process from start to PNG",
        "",
        "| | median s | min s | times `import torch` | peak resident MB |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {medians[name]:.2f} | {min(seconds[name]):.2f} | "
            f"{medians[name] / medians['import torch']:.2f} | {peaks[name]:.0f} |"
            for name in programs
        ),
    ]


def _run(command: list[str]) -> float:
    """Run a command; returns its peak resident size in MB (ru_maxrss of this child alone)."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        assert child.stderr is not None
        raise SystemExit(f"{command[:3]} failed: {child.stderr.read().decode()[-800:]}")
    return usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def _settings(folder: str) -> dict[str, object]:
    """The folder's own defaults, by diffusers' names. Read without importing torch: see `_alone`."""
    own = json.loads((Path(folder) / "sanakit.json").read_text())["defaults"]
    return {
        "num_inference_steps": own["steps"],
        "guidance_scale": own["guidance"],
        "width": own["width"],
        "height": own["height"],
    }


if __name__ == "__main__":
    main()
