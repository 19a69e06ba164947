"""What training costs besides its arithmetic: the loop's overhead, the reading of images, two processes.

    python benchmarks/train.py [--batch-sizes 48,8] [--steps 20] [--threads 1] [--parts step,loader,ranks]
                               [--write]

step: the training loop against a bare one, step by step in turn in one process, on copies of the embedded
model and on the same batches: random latents of 256 px and real captions. The bare loop is what no training
does without: forward, backward, clipping, the optimiser's step, forgetting the gradients; its batches are
drawn beforehand. The loop's time has in it what the bare one lacks: drawing the batch, the moving average of
the weights, the guard, the counting of its own arithmetic and the log, here a line every step where recipes
write one every 10 to 50. Measuring, sheets and checkpoints happen when a recipe asks for them and are not
counted. Both compute the same losses, which is checked. CPU time is that of all threads of the process.

loader: images a second from a folder of made JPEGs of mixed aspect ratios, 512 to 1024 px, with 0, 1 and 2
workers; then the part of a step that a real fine-tuning of the embedded model waits for its batch, as its
log says.

ranks: two processes with DDP and FSDP2 against one with the same global batch. No goal: on one machine
they share its cores.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import side_by_side as side

if TYPE_CHECKING:
    from sanakit.train.config import TrainConfig
    from sanakit.train.objectives.velocity import VelocityObjective

PARTS = ("step", "loader", "ranks")
WARM_UP = 3  # steps before those that count
MOST_OVERHEAD, MOST_WAITING = 1.10, 0.02  # asked: our step over the bare one; part of a step
CASES = (("adamw", False), ("adamw", True), ("muon", False), ("muon", True))  # optimiser, bf16
IMAGES, SIDES = 192, (512, 640, 768, 896, 1024)  # made for the loader
READ = 16  # images of a batch that is only read
TUNED = 8  # and of one that is trained on
SPREAD = {"DDP": "ddp", "FSDP2": "fsdp"}


@dataclass(slots=True)
class Clock:
    """Seconds that each call took: of wall time, and of CPU time of all threads."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], Any]) -> Any:
        """Time a call and give what it gives."""
        wall, cpu = time.perf_counter(), time.process_time()
        given = call()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        return given


def main() -> None:
    """Measure the parts that were asked for, print and store them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20, help="of each side, each training")
    parser.add_argument("--batch-sizes", type=side.numbers, default=[48, 8], help="the first, of ranks, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results/")
    asked = parser.parse_args()
    parts = asked.parts.split(",")
    if strange := set(parts) - set(PARTS):
        parser.error(f"--parts knows {', '.join(PARTS)}, not {', '.join(sorted(strange))}")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorBoard may bring a TensorFlow that introduces itself
    side.use_threads(asked.threads)
    import torch

    torch.set_grad_enabled(True)
    lines = side.heading("The cost of training", f"{asked.threads} thread(s) a process, workers beside it.")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if "step" in parts:
            lines += step_lines(asked.batch_sizes, asked.steps, folder)
        if "loader" in parts:
            lines += loader_lines(asked.steps, folder)
        if "ranks" in parts:
            lines += rank_lines(asked.batch_sizes[0], asked.steps, asked.threads, folder)
    side.publish(lines, "train", write=asked.write)


def step_lines(batch_sizes: list[int], steps: int, folder: Path) -> list[str]:
    """Our loop beside the bare one, for each optimiser, batch size and precision that the processor has."""
    import torch

    from sanakit.weights.precision import computes

    rows, worst = [], 0.0
    for batch_size in batch_sizes:
        for optimizer, bf16 in CASES:
            if bf16 and not computes(torch.device("cpu"), torch.bfloat16):
                continue  # the loop would train in float32
            config = settings(batch_size, optimizer, bf16)
            ours, bare, averaging, waiting = loops(config, steps, folder / f"{optimizer}-{bf16}-{batch_size}")
            ratio, least, cpu = (
                statistics.median(ours.wall) / statistics.median(bare.wall),
                min(ours.wall) / min(bare.wall),
                statistics.median(ours.cpu) / statistics.median(bare.cpu),
            )
            worst = max(worst, ratio)
            step = statistics.median(bare.wall)
            average = statistics.median(averaging.wall)
            rows.append(
                [
                    batch_size,
                    optimizer,
                    "bf16" if bf16 else "float32",
                    f"{1000 * step:.1f}",
                    f"{1000 * statistics.median(ours.wall):.1f}",
                    f"{ratio:.3f}",
                    f"{least:.3f}",
                    f"{cpu:.3f}",
                    f"{1000 * average:.1f} ({average / step:.1%})",
                    f"{1000 * waiting * step:.1f} ({waiting:.1%})",
                ]
            )
            print(*rows[-1], flush=True)
    heads = ["batch", "optimiser", "precision", "bare ms", "ours ms", "ratio of medians", "of minima"]
    heads += ["of CPU time", "averaging ms", "drawing the batch ms"]
    return [
        "",
        f"## A step of the loop over a bare one ({steps} steps of each, in turn)",
        "",
        *side.table(heads, rows),
        "",
        f"Largest ratio of medians: {worst:.3f} (asked: at most {MOST_OVERHEAD:.2f}). Averaging and drawing "
        "are part of ours.",
    ]


def loops(config: TrainConfig, steps: int, folder: Path) -> tuple[Clock, Clock, Clock, float]:
    """Time our loop, the bare one and averaging alone; and the part of our step that draws the batch."""
    from sanakit.train.loop import train
    from sanakit.train.parts import Part
    from sanakit.train.state.average import Average

    mine, other = embedded(), embedded()
    whole = Part(0, config.batch_size, config.batch_size)
    average = Average(copy.deepcopy(other.model))
    average.start()
    ours, bare, averaging = Clock(), Clock(), Clock()
    waited = []
    bare_step = bare_loop(other, config)
    with closing(train(mine, config, folder)) as run:  # pyright: ignore[reportArgumentType]
        for step in range(WARM_UP + steps):
            batch = other.batch(step, whole)
            progress = ours.time(lambda: next(run))
            loss = bare.time(lambda batch=batch: bare_step(batch))
            if not math.isclose(progress.loss, loss, rel_tol=0.05 if config.bf16 else 1e-3):
                raise RuntimeError(f"The loops do not do the same: losses {progress.loss} and {loss}")
            averaging.time(lambda: average.update(0.99))
            waited.append(progress.data_wait)
    for clock in (ours, bare, averaging):
        del clock.wall[:WARM_UP], clock.cpu[:WARM_UP]
    return ours, bare, averaging, statistics.median(waited[WARM_UP:])


def bare_loop(objective: VelocityObjective, config: TrainConfig) -> Callable[[Any], float]:
    """A function that takes a step with nothing that could be left out, and gives the batch's loss."""
    import torch
    from torch import nn

    from sanakit.train.optim.make import make_optimizers

    parameters = list(objective.model.parameters())
    optimizers = make_optimizers(objective.model, config)

    def step(batch: Any) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            loss = objective.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def settings(batch_size: int, optimizer: str = "adamw", bf16: bool = False, **more: Any) -> TrainConfig:
    """Settings at a constant rate, with more steps than are taken: the last would measure and draw."""
    from sanakit.train.config import TrainConfig

    chosen: dict[str, Any] = {"optimizer": optimizer, "bf16": bf16} | more
    later = 10**9
    return TrainConfig(
        steps=later,
        batch_size=batch_size,
        learning_rate=1e-4,
        muon_learning_rate=2e-4,
        warmup_steps=0,
        decay_fraction=0.0,
        log_every=1,
        evaluate_every=later,
        sheet_every=later,
        checkpoint_every=later,
        **chosen,
    )


def embedded() -> VelocityObjective:
    """The embedded model, transformer and text encoder, to be trained on random latents of its own size."""
    import torch

    from sanakit.pocket.words.concepts import COMMON_CONCEPTS
    from sanakit.train.feeds.latents import LatentFeed
    from sanakit.train.objectives.velocity import Sheet, VelocityObjective
    from sanakit.weights import load_text_encoder, load_transformer

    transformer = load_transformer("pocket", device="cpu", dtype="float32")
    encoder = load_text_encoder("pocket", device="cpu", dtype="float32")
    captions = [[caption, f"a picture of {caption} on white"] for caption in COMMON_CONCEPTS.values()]
    config = transformer.config
    shape = (config.latent_channels, config.sample_size, config.sample_size)
    latents = torch.randn((len(captions), *shape), generator=torch.Generator().manual_seed(0))
    return VelocityObjective(
        transformer,
        encoder,
        LatentFeed(latents, captions, torch.ones(len(captions))),
        shift=3.0,
        sheet=Sheet(prompts=["never drawn"], guidance=2.5, steps=10, shape=shape, decode=lambda z: z),
        train_text=True,
    )


def loader_lines(steps: int, folder: Path) -> list[str]:
    """Images a second that the loader reads, and the part of a training step that waits for it."""
    data = folder / "pictures"
    make_images(data)
    read, waited = [], []
    for workers in (0, 1, 2):
        rates = [reading_rate(data, folder, workers, resolution) for resolution in (256, 512)]
        read.append([workers, *(f"{rate:.0f} ({rate / max(1, workers):.0f})" for rate in rates)])
        print(*read[-1], flush=True)
    for workers in (0, 1, 2):
        lines = list(tuning(data, folder / f"tuned-{workers}", workers, steps))
        seconds = [TUNED / line.samples_per_second for line in lines]
        waits = [line.data_wait * taken for line, taken in zip(lines, seconds, strict=True)]
        row = [workers, f"{1000 * statistics.mean(seconds):.0f}", f"{1000 * statistics.median(waits):.1f}"]
        waited.append([*row, f"{1000 * max(waits):.1f}", f"{sum(waits) / sum(seconds):.2%}"])
        print(*waited[-1], flush=True)
    return [
        "",
        f"## Reading {IMAGES} JPEGs of {SIDES[0]} to {SIDES[-1]} px, mixed aspect ratios",
        "",
        *side.table(["workers", "to 256 px, pictures/s (per worker)", "to 512 px"], read),
        "",
        f"Fine-tuning the embedded model on them at 256 px, {TUNED} a batch, {steps} steps: part of a step "
        f"that waits for the batch (asked: below {MOST_WAITING:.0%} with workers):",
        "",
        *side.table(["workers", "step ms", "wait ms, median", "longest", "part of all steps"], waited),
    ]


def make_images(folder: Path) -> None:
    """Write JPEGs of about 1.3 bits a pixel, as photographs have, each with a caption."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        width, height = generator.choice(SIDES, 2).tolist()
        image = np.zeros((height, width, 3))
        for scale in (4, 16, 64, 256):  # cells a side: the power of a photograph falls with frequency
            cells = Image.fromarray(generator.integers(0, 256, (scale, scale, 3), dtype=np.uint8))
            image += np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC)) / scale**0.5
        image = (image * (255 / image.max())).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number:03d}.jpg", quality=90)
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")


def reading_rate(data: Path, folder: Path, workers: int, resolution: int) -> float:
    """Images a second if nothing else is done, from when the workers run and their queues are empty."""
    from sanakit.data.batches.loader import AHEAD, Loader
    from sanakit.data.read.index import scan
    from sanakit.data.read.open import open_source
    from sanakit.train.parts import Part

    source = open_source(data)
    index = scan(source, folder / "index.npz")
    whole, begun = Part(0, READ, READ), AHEAD * workers + 1
    with Loader(source, index, resolution=resolution, batch_size=READ, workers=workers) as loader:
        loader.begin(0, [whole])
        for step in range(begun):
            loader.batch(step, whole)
        started, count = time.perf_counter(), 0.0
        for step in range(begun, begun + IMAGES // READ * 2):
            count += loader.batch(step, whole).weights.sum().item()
        return count / (time.perf_counter() - started)


def tuning(data: Path, output: Path, workers: int, steps: int) -> Iterator[Any]:
    """Lines of a fine-tuning's log, without the first, while workers start."""
    from sanakit.train.loop import train
    from sanakit.train.runs.finetune import Aim, finetune_run

    run = finetune_run(data, output, "pocket", settings(TUNED), Aim(), workers=workers)
    with closing(train(run.objective, run.config, output)) as lines:  # pyright: ignore[reportArgumentType]
        for line in lines:
            if line.step > WARM_UP:
                yield line
            if line.step == WARM_UP + steps:
                break
    run.objective.feed.loader.close()  # pyright: ignore[reportAttributeAccessIssue]


def rank_lines(batch_size: int, steps: int, threads: int, folder: Path) -> list[str]:
    """Steps of two processes and of one; that runs before and after, as it cannot run in between."""
    import json

    from torch import multiprocessing

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = Clock()
    half = -(-steps // 2)
    time_steps({"alone": settings(batch_size)}, half, folder / "before", {"alone": alone})
    multiprocessing.spawn(rank, (port, batch_size, steps, threads, folder), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    time_steps({"alone": settings(batch_size)}, half, folder / "after", {"alone": alone})
    found = {"one process": (alone.wall, alone.cpu)} | json.loads((folder / "ranks.json").read_text())
    reference = statistics.median(alone.wall)
    rows = [
        [
            name,
            f"{1000 * statistics.median(wall):.0f}",
            f"{1000 * min(wall):.0f}",
            f"{statistics.median(wall) / reference:.2f}",
            f"{statistics.median(cpu) / statistics.median(alone.cpu):.2f}",
        ]
        for name, (wall, cpu) in found.items()
    ]
    heads = ["", "step ms, median", "minimum", "ratio of medians", "CPU time of rank 0 over one process's"]
    return [
        "",
        f"## Two gloo processes on this machine, global batch {batch_size}, AdamW, float32",
        "",
        *side.table(heads, rows),
    ]


def rank(place: int, port: int, batch_size: int, steps: int, threads: int, folder: Path) -> None:
    """One of two processes: both ways of spreading take turns; rank 0 stores what they took."""
    import json

    import torch

    from sanakit.train.distributed.parallel import processes

    torch.set_num_threads(threads)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(place), "LOCAL_RANK": str(place)}
    clocks = {name: Clock() for name in SPREAD}
    with processes():
        configs = {name: settings(batch_size, parallel=way) for name, way in SPREAD.items()}
        time_steps(configs, steps, folder / "ranks", clocks)
    if place == 0:
        (folder / "ranks.json").write_text(json.dumps({n: (c.wall, c.cpu) for n, c in clocks.items()}))


def time_steps(configs: dict[str, TrainConfig], steps: int, folder: Path, clocks: dict[str, Clock]) -> None:
    """Train with each of the settings in turn, and add the times of their steps, after some to warm up."""
    from sanakit.train.loop import train

    runs = {name: train(embedded(), config, folder / name) for name, config in configs.items()}
    for _ in range(WARM_UP):
        for run in runs.values():
            next(run)
    for _ in range(steps):
        for name, run in runs.items():
            clocks[name].time(lambda run=run: next(run))


if __name__ == "__main__":
    main()
