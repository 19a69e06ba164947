"""Train pocket further on a GPU within a budget of minutes: text, decoder, transformer, 512 px, in one call.

    python benchmarks/pocket_gpu.py PACKAGES OUTPUT [--minutes 10] [--batch 256] [--source pocket] [--smoke]

PACKAGES: the npm tarballs that `sana data pocket` fetched (seven files, 43 MB): all that has to travel beside
the repository; drawings are made from them here. Each stage of the recipe `pocket-further` gets its share of
the time; its steps are what fits, by the seconds of some steps that are not kept, so that the learning rate
falls to its end in time. Checkpoints and models lie in OUTPUT as soon as they are written: a call that is cut
leaves what was done, and the same call again goes on with it. Without a GPU all of it runs, slower.
--smoke: two steps of each stage on made-up shapes: does the way lead to the end?
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sanakit.train.config import TrainConfig
    from sanakit.train.run import Run

SHARES = {"pocket-names": 0.08, "pocket-refine": 0.17, "pocket-poses": 0.45, "pocket-512": 0.3}  # of the time
TIMED, UNTIMED = 6, 3  # steps that are timed, and before them, while kernels are compiled
LEAST = 20  # steps of a stage
SPARE = 1.25  # of a step's time: the optimiser, the moving average, looks and checkpoints


def main() -> None:
    """Build the data, then run stage after stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the whole call")
    parser.add_argument("--batch", type=int, default=256, help="samples a step on a GPU")
    parser.add_argument("--source", default="pocket")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    begun = time.monotonic()

    def left() -> float:
        return asked.minutes * 60 - (time.monotonic() - begun)

    from sanakit.pocket.recipes.stages import FURTHER

    data = built(asked.packages, asked.output / "data", smoke=asked.smoke)
    told = {"data_seconds": round(time.monotonic() - begun, 1)}
    source, waiting = asked.source, sum(SHARES.values())
    for name, make in FURTHER.items():
        folder = asked.output / name
        if not (folder / "model").is_dir():
            seconds = left() * SHARES[name] / waiting
            steps, samples = run_stage(
                lambda folder=folder, make=make, source=source: make(
                    data, folder, source=source, smoke=asked.smoke
                ),
                folder,
                seconds,
                batch=asked.batch,
                smoke=asked.smoke,
            )
            told[name] = {"steps": steps, "samples": samples, "seconds_left": round(left(), 1)}
            print(json.dumps({name: told[name]}), flush=True)
        source, waiting = folder / "model", waiting - SHARES[name]
    (asked.output / "told.json").write_text(json.dumps(told, indent=2))


def built(packages: Path, data: Path, *, smoke: bool) -> Path:
    """Draw the data sets from the packages, or make shapes up."""
    from sanakit.pocket.data.dataset import build_pocket, more_of, packages_of
    from sanakit.pocket.data.more_art import build_more
    from sanakit.pocket.data.toy import build_toy

    if smoke:
        return data if data.exists() else build_toy(data)
    own = packages_of(data)
    if not own.exists():
        shutil.copytree(packages, own)
    build_pocket(data)
    build_more(more_of(data), cache=own)
    return data


def run_stage(
    make: Callable[[], Run], folder: Path, seconds: float, *, batch: int, smoke: bool
) -> tuple[int, int]:
    """Train a stage for about so many seconds and write its model; return its steps and samples."""
    from sanakit.train.loop import train
    from sanakit.train.record import record_run

    begun = time.monotonic()
    run = make()
    config = run.config if smoke else settings(run.config, batch)
    if not smoke:
        each = step_seconds(run, config)
        fitting = int((seconds - (time.monotonic() - begun)) / (each * SPARE))
        steps = max(LEAST, min(fitting, config.steps * 10))
        config = replace(
            config,
            steps=steps,
            warmup_steps=min(config.warmup_steps, steps // 10),
            evaluate_every=max(1, steps // 2),
            sheet_every=max(1, steps // 2),
            checkpoint_every=max(1, steps // 4),
        )
    record_run(folder, folder.name, config, run.made_with)
    for progress in train(run.objective, config, folder, resume=True):
        print(
            f"{folder.name}: step {progress.step} of {progress.total}, loss {progress.loss:.4f}", flush=True
        )
    run.finish(folder)
    return config.steps, config.steps * config.batch_size


def settings(config: TrainConfig, batch: int) -> TrainConfig:
    """Return a stage's settings; on a GPU for its batch, the rate by the square root of the two batches."""
    import torch

    if not torch.cuda.is_available():
        return config
    larger = config.at(config.learning_rate * (batch / config.batch_size) ** 0.5)
    return replace(larger, batch_size=batch, bf16=True)


def step_seconds(run: Run, config: TrainConfig) -> float:
    """Return the seconds of a forward and backward pass of a batch; gradients are thrown away."""
    import torch

    from sanakit.train.parts import Part
    from sanakit.weights.precision import computes

    device = next(run.objective.model.parameters()).device
    part = Part(0, config.batch_size, config.batch_size)
    bf16 = config.bf16 and computes(device, torch.bfloat16)
    run.objective.begin(0, [part])
    for step in range(UNTIMED + TIMED):
        if step == UNTIMED:
            wait(device)
            begun = time.monotonic()
        batch = run.objective.batch(step, part)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = run.objective.loss(batch)
        loss.backward()
    wait(device)
    run.objective.model.zero_grad(set_to_none=True)
    return (time.monotonic() - begun) / TIMED


def wait(device) -> None:
    """Wait until a GPU has done what it was asked for."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
