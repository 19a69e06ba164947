"""What training costs besides its arithmetic: the loop's overhead, the reading of pictures, two processes.

    python benchmarks/train.py [--batch-sizes 48,8] [--steps 40] [--threads 1] [--parts step,loader,ranks]
                               [--write]

step: the training loop against a bare one, taking turns in one process, on copies of the embedded model and
on the same batches: random latents of 256 px and real captions. The bare loop is what no training does
without: forward, backward, clipping, the optimiser's step, forgetting the gradients; its batches are drawn
beforehand. The loop's time has in it what the bare one lacks: drawing the batch, the moving average of the
weights, the guard, the counting of its own arithmetic and the log, a line every BLOCK steps where recipes
write one every 10 to 50. Measuring, sheets and checkpoints happen when a recipe asks for them and are not
counted. Both compute the same losses, which is checked. CPU time is that of all threads of the process.

loader: pictures a second from a folder of made JPEGs of mixed aspect ratios, 512 to 1024 px, with 0, 1 and 2
workers; then the part of a step that a real fine-tuning of the embedded model waits for its batch, as its
log says.

ranks: two processes with DDP and FSDP2 against one with the same global batch. No goal: on one machine
they share its cores.
"""

from __future__ import annotations

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
    from sanakit.train.flow_matching import FlowMatchingObjective

BLOCK = 5  # steps that each side takes at a time
MOST_OVERHEAD, MOST_WAITING = 1.10, 0.02  # asked: our step over the bare one; part of a step
CASES = (("adamw", False), ("adamw", True), ("muon", False), ("muon", True))  # optimiser, bf16
PICTURES, SIDES = 192, (512, 640, 768, 896, 1024)  # made for the loader
READ = 16  # pictures of a batch that is only read
TUNED = 8  # and of one that is trained on
SPREAD = {"DDP": "ddp", "FSDP2": "fsdp"}


@dataclass(slots=True)
class Clock:
    """Seconds of a step, a figure for each block of steps."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], Any], steps: int = BLOCK) -> Any:
        """Time a call that takes so many steps, and give what it gives."""
        wall, cpu = time.perf_counter(), time.process_time()
        given = call()
        self.wall.append((time.perf_counter() - wall) / steps)
        self.cpu.append((time.process_time() - cpu) / steps)
        return given


def main() -> None:
    """Measure the parts that were asked for, print and store them."""
    parser = side.parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=40, help=f"of each side, in blocks of {BLOCK}")
    parser.add_argument("--batch-sizes", type=side.numbers, default=[48, 8])
    parser.add_argument("--parts", default="step,loader,ranks")
    asked = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorBoard may bring a TensorFlow that introduces itself
    side.use_threads(asked.threads)
    import torch

    torch.set_grad_enabled(True)
    lines = side.heading("The cost of training", f"{asked.threads} thread(s) a process, workers beside it.")
    with tempfile.TemporaryDirectory() as made:
        for part in asked.parts.split(","):
            if part == "step":
                lines += step_lines(asked.batch_sizes, asked.steps, Path(made))
            elif part == "loader":
                lines += loader_lines(asked.steps, Path(made))
            elif part == "ranks":
                lines += rank_lines(asked.batch_sizes[0], asked.steps, asked.threads, Path(made))
            else:
                parser.error(f"--parts knows step, loader and ranks, not {part!r}")
    side.publish(lines, "train", write=asked.write)


def step_lines(batch_sizes: list[int], steps: int, folder: Path) -> list[str]:
    """Our loop beside the bare one, for each optimiser, precision and batch size."""
    rows, worst = [], 0.0
    for batch_size in batch_sizes:
        for optimizer, bf16 in CASES:
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
        f"## A step of the loop over a bare one ({steps} steps of each, by turns, {BLOCK} at a time)",
        "",
        *side.table(heads, rows),
        "",
        f"Largest ratio of medians: {worst:.3f} (asked: at most {MOST_OVERHEAD:.2f}). Averaging and drawing "
        "are part of ours.",
    ]


def loops(config: TrainConfig, steps: int, folder: Path) -> tuple[Clock, Clock, Clock, float]:
    """Time our loop, the bare one and averaging alone; and the part of our step that draws the batch."""
    from sanakit.train.average import Average
    from sanakit.train.loop import train
    from sanakit.train.parts import Part

    mine, other = embedded(), embedded()
    whole = Part(0, config.batch_size, config.batch_size)
    average = Average(copy.deepcopy(other.model))
    average.start()
    ours, bare, averaging = Clock(), Clock(), Clock()
    waited = []
    bare_block = bare_loop(other, config)
    with closing(train(mine, config, folder)) as run:  # pyright: ignore[reportArgumentType]
        for first in range(0, BLOCK + steps, BLOCK):
            batches = [other.batch(step, whole) for step in range(first, first + BLOCK)]
            calls: list[Callable[[], Any]] = [
                lambda: ours.time(lambda: next(run)),
                lambda batches=batches: bare.time(lambda: bare_block(batches)),
            ]
            swapped = first // BLOCK % 2  # neither is always the first after the other's caches
            results = [call() for call in (reversed(calls) if swapped else calls)]
            progress, loss = reversed(results) if swapped else results
            if not math.isclose(progress.loss, loss, rel_tol=0.02 if config.bf16 else 1e-3):
                raise RuntimeError(f"The loops do not do the same: losses {progress.loss} and {loss}")
            averaging.time(lambda: average.update(0.99), steps=1)
            waited.append(progress.data_wait)
    for clock in (ours, bare, averaging):  # the first block warms up
        del clock.wall[0], clock.cpu[0]
    return ours, bare, averaging, statistics.median(waited[1:])


def bare_loop(objective: FlowMatchingObjective, config: TrainConfig) -> Callable[[list[Any]], float]:
    """A function that takes a step for each batch, with nothing that could be left out: the mean loss."""
    import torch
    from torch import nn

    from sanakit.train.optim import make_optimizers

    parameters = list(objective.model.parameters())
    optimizers = make_optimizers(objective.model, config)

    def block(batches: list[Any]) -> float:
        total = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
                loss = objective.loss(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            total += loss.item()
        return total / len(batches)

    return block


def settings(batch_size: int, optimizer: str = "adamw", bf16: bool = False, **more: Any) -> TrainConfig:
    """Settings at a constant rate, with more steps than are taken: the last would measure and draw."""
    from sanakit.train.config import TrainConfig

    chosen: dict[str, Any] = {"optimizer": optimizer, "bf16": bf16, "log_every": BLOCK} | more
    later = 10**9
    return TrainConfig(
        steps=later,
        batch_size=batch_size,
        learning_rate=1e-4,
        muon_learning_rate=2e-4,
        warmup_steps=0,
        decay_fraction=0.0,
        evaluate_every=later,
        sheet_every=later,
        checkpoint_every=later,
        **chosen,
    )


def embedded() -> FlowMatchingObjective:
    """The embedded model, transformer and text encoder, to be trained on random latents of its own size."""
    import torch

    from sanakit.data.pocket_concepts import COMMON_CONCEPTS
    from sanakit.train.flow_matching import FlowMatchingObjective
    from sanakit.weights import load_text_encoder, load_transformer

    transformer = load_transformer("pocket", device="cpu", dtype="float32")
    encoder = load_text_encoder("pocket", device="cpu", dtype="float32")
    captions = [[f"a {name}", f"a picture of a {name} on white"] for name in COMMON_CONCEPTS.values()]
    config = transformer.config
    shape = (len(captions), config.latent_channels, config.sample_size, config.sample_size)
    return FlowMatchingObjective(
        transformer.train().requires_grad_(True),
        encoder.model.train().requires_grad_(True),
        encoder.tokenizer,
        torch.randn(shape, generator=torch.Generator().manual_seed(0)),
        captions,
        torch.ones(len(captions)),
        shift=3.0,
        sheet_prompts=["never drawn"],
        decode=lambda latents: latents,
    )


def loader_lines(steps: int, folder: Path) -> list[str]:
    """Pictures a second that the loader reads, and the part of a training step that waits for it."""
    data = folder / "pictures"
    make_pictures(data)
    read, waited = [], []
    for workers in (0, 1, 2):
        rates = [reading_rate(data, folder, workers, resolution) for resolution in (256, 512)]
        read.append([workers, *(f"{rate:.0f} ({rate / max(1, workers):.0f})" for rate in rates)])
        print(*read[-1], flush=True)
    for workers in (0, 1, 2):
        lines = list(tuning(data, folder / f"tuned-{workers}", workers, steps))
        shares, rates = [line.data_wait for line in lines], [line.samples_per_second for line in lines]
        row = [workers, f"{statistics.median(shares):.2%}", f"{max(shares):.2%}"]
        waited.append([*row, f"{statistics.median(rates):.1f}"])
        print(*waited[-1], flush=True)
    return [
        "",
        f"## Reading {PICTURES} JPEGs of {SIDES[0]} to {SIDES[-1]} px, mixed aspect ratios",
        "",
        *side.table(["workers", "to 256 px, pictures/s (per worker)", "to 512 px"], read),
        "",
        f"Fine-tuning the embedded model on them at 256 px, {TUNED} a batch, {steps} steps: part of a step "
        f"that waits for the batch (asked: below {MOST_WAITING:.0%} with workers):",
        "",
        *side.table(["workers", "median of lines", "largest", "pictures/s trained"], waited),
    ]


def make_pictures(folder: Path) -> None:
    """Write JPEGs with the detail of photographs, about 2 bits a pixel, each with a caption."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        width, height = (int(side_) for side_ in generator.choice(SIDES, 2))
        picture = np.zeros((height, width, 3))
        for scale in (4, 16, 64, 256):  # cells a side: the power of a photograph falls with frequency
            cells = Image.fromarray(generator.integers(0, 256, (scale, scale, 3), dtype=np.uint8))
            picture += np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC)) / scale**0.5
        picture = (picture * (255 / picture.max())).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number:03d}.jpg", quality=90)
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")


def reading_rate(data: Path, folder: Path, workers: int, resolution: int) -> float:
    """Pictures a second when nothing else is done, after the workers have started and their queues are empty."""
    from sanakit.data.index import scan
    from sanakit.data.loader import AHEAD, Loader
    from sanakit.data.source import open_source
    from sanakit.train.parts import Part

    source = open_source(data)
    index = scan(source, folder / "index.npz")
    whole, begun = Part(0, READ, READ), AHEAD * workers + 1
    with Loader(source, index, resolution=resolution, batch_size=READ, workers=workers) as loader:
        loader.begin(0, [whole])
        for step in range(begun):
            loader.batch(step, whole)
        started, count = time.perf_counter(), 0.0
        for step in range(begun, begun + PICTURES // READ * 2):
            count += loader.batch(step, whole).weights.sum().item()
        return count / (time.perf_counter() - started)


def tuning(data: Path, output: Path, workers: int, steps: int) -> Iterator[Any]:
    """Lines of a fine-tuning's log, without the first, in which workers start."""
    from sanakit.train.finetune_folder import Aim, finetune_run
    from sanakit.train.loop import train

    run = finetune_run(data, output, "pocket", settings(TUNED), Aim(), workers=workers)
    with closing(train(run.objective, run.config, output)) as lines:  # pyright: ignore[reportArgumentType]
        for line in lines:
            if line.step > BLOCK:
                yield line
            if line.step >= BLOCK + steps:
                break
    run.objective.loader.close()  # pyright: ignore[reportAttributeAccessIssue]


def rank_lines(batch_size: int, steps: int, threads: int, folder: Path) -> list[str]:
    """Steps of two processes and of one; that runs before and after, as it can not run in between."""
    import json

    from torch import multiprocessing

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = Clock()
    blocks = -(-steps // (2 * BLOCK))
    time_blocks({"alone": settings(batch_size)}, blocks, folder / "before", {"alone": alone})
    multiprocessing.spawn(rank, (port, batch_size, blocks * 2, threads, folder), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    time_blocks({"alone": settings(batch_size)}, blocks, folder / "after", {"alone": alone})
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


def rank(place: int, port: int, batch_size: int, blocks: int, threads: int, folder: Path) -> None:
    """One of two processes: both ways of spreading take turns; rank 0 stores what they took."""
    import json

    import torch

    from sanakit.train.parallel import processes

    torch.set_num_threads(threads)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(place), "LOCAL_RANK": str(place)}
    clocks = {name: Clock() for name in SPREAD}
    with processes():
        configs = {name: settings(batch_size, parallel=way) for name, way in SPREAD.items()}
        time_blocks(configs, blocks, folder / "ranks", clocks)
    if place == 0:
        (folder / "ranks.json").write_text(json.dumps({n: (c.wall, c.cpu) for n, c in clocks.items()}))


def time_blocks(
    configs: dict[str, TrainConfig], blocks: int, folder: Path, clocks: dict[str, Clock]
) -> None:
    """Train with each of the settings by turns, and add their times, after a block to warm up."""
    from sanakit.train.loop import train

    runs = {name: train(embedded(), config, folder / name) for name, config in configs.items()}
    for run in runs.values():
        next(run)
    for _ in range(blocks):
        for name, run in runs.items():
            clocks[name].time(lambda run=run: next(run))


if __name__ == "__main__":
    main()
