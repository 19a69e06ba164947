"""AdamW, CAME, 8-bit CAME and Muon on pocket's own task: loss curves, memory of the states, time of a step.

    python benchmarks/optimizers.py --data DIR --runs DIR [--steps 500] [--rates came=3e-4,muon=2e-3]
                                    [--optimizers adamw,came,came8bit,muon] [--write]

--data is the pocket data set, --runs the folder that holds the trained run `pocket-autoencoder`, whose
latents are learnt. Copies of one model with the same initial weights take their steps in turn, on the same
batches, so that a slow minute of the machine slows them all. The learning rates are part of the comparison:
an optimiser is no better than its rate. Muon trains the matrices inside the blocks at its own rate, and the
rest with AdamW at adamw's. With --write the tables and a plot are stored under benchmarks/results/; the plot
needs matplotlib.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import side_by_side as side

if TYPE_CHECKING:
    import torch

    from sanakit.train.config import TrainConfig
    from sanakit.train.objectives.velocity import VelocityObjective

# AdamW's and Muon's are those of the recipe. CAME's authors advise a third to all of AdamW's.
RATES = {"adamw": 1e-3, "came": 3e-4, "came8bit": 3e-4, "muon": 2e-3}
WATCHED = 0.85  # the time (1 = pure noise) at which it is


@dataclass
class Course:
    """What one optimiser did with its copy of the model."""

    name: str
    objective: VelocityObjective
    config: TrainConfig
    optimizers: list[torch.optim.Optimizer]
    losses: list[float] = field(default_factory=list)
    gradient_seconds: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)
    looks: dict[int, dict[str, float]] = field(default_factory=dict)  # by steps done


def main() -> None:
    """Train every copy, print and store the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the pocket data set")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of pocket-autoencoder")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimizers", default=",".join(RATES))
    parser.add_argument("--rates", default="", help="learning rates, such as came=1e-4,adamw=2e-3")
    parser.add_argument("--looks", type=int, default=10, help="times that losses by caption are measured")
    parser.add_argument("--write", action="store_true", help="store the result in benchmarks/results/")
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    import torch

    torch.set_grad_enabled(True)
    rates = RATES | {name: float(rate) for name, rate in _pairs(asked.rates)}
    courses = start(asked.data, asked.runs, asked.optimizers.split(","), rates, asked.steps, asked.batch_size)
    for step in range(asked.steps):
        for course in courses:
            take_step(course, step)
        if (step + 1) % max(1, asked.steps // asked.looks) == 0 or step + 1 == asked.steps:
            for course in courses:
                course.looks[step + 1] = course.objective.evaluate(course.objective.model)
            print(step + 1, {course.name: round(course.losses[-1], 4) for course in courses}, flush=True)

    parameters = sum(parameter.numel() for parameter in courses[0].objective.model.parameters())
    about = f"{parameters / 1e6:.1f} million parameters, batch {asked.batch_size}, {asked.threads} thread(s)."
    lines = [*side.heading("Optimisers at equal steps", about), "", *tables(courses, rates, parameters)]
    if asked.write:
        path = side.result_path("optimizers.svg")
        plot(courses, path)
        lines += ["", f"![loss over steps]({path.name})"]
    side.publish(lines, "optimizers", write=asked.write)


def start(
    data: Path, runs: Path, names: list[str], rates: dict[str, float], steps: int, batch_size: int
) -> list[Course]:
    """Copies of pocket's objective, one for each optimiser."""
    import copy
    from dataclasses import replace

    from sanakit.pocket.recipes import pocket
    from sanakit.train.optim.make import make_optimizers

    config = replace(pocket.DRAWINGS, steps=steps, batch_size=batch_size, compile=False, bf16=False)
    run = pocket.drawings(data, runs / "optimizers", config=config)
    courses = []
    for name in names:
        objective = copy.deepcopy(run.objective)
        rate = rates["adamw" if name == "muon" else name]
        own: dict[str, Any] = {"optimizer": name, "learning_rate": rate, "muon_learning_rate": rates["muon"]}
        chosen = replace(config, **own)
        courses.append(Course(name, objective, chosen, make_optimizers(objective.model, chosen)))
    return courses


def take_step(course: Course, step: int) -> None:
    """One step of one copy; the batch is a function of the step."""
    from torch import nn

    from sanakit.train.parts import Part

    objective, config = course.objective, course.config
    started = time.perf_counter()
    loss = objective.loss(objective.batch(step, Part(0, config.batch_size, config.batch_size)))
    loss.backward()
    nn.utils.clip_grad_norm_(objective.model.parameters(), config.clip_norm)
    course.losses.append(loss.item())
    middle = time.perf_counter()
    for optimizer in course.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * config.rate(step)
        optimizer.step()
    course.update_seconds.append(time.perf_counter() - middle)
    course.gradient_seconds.append(middle - started)
    for optimizer in course.optimizers:
        optimizer.zero_grad(set_to_none=True)


def tables(courses: list[Course], rates: dict[str, float], parameters: int) -> list[str]:
    """What was learnt, what it took; then the loss on the way."""
    from sanakit.train.optim.make import state_bytes

    rows, on_the_way = [], []
    for course in courses:
        last = course.losses[-max(1, len(course.losses) // 10) :]
        measured = course.looks[max(course.looks)]
        right, wrong = measured[f"right_{WATCHED}"], measured[f"wrong_{WATCHED}"]
        size = state_bytes(course.optimizers)
        update, gradient = map(statistics.median, (course.update_seconds, course.gradient_seconds))
        rows.append(
            [
                course.name,
                f"{rates[course.name]:g}",
                f"{statistics.mean(last):.4f}",
                f"{right:.4f}",
                f"{wrong - right:.4f}",
                f"{size / 2**20:.1f}",
                f"{size / parameters:.2f}",
                f"{1000 * update:.0f}",
                f"{update / (update + gradient):.1%}",
            ]
        )
        seen = [f"{look[f'right_{WATCHED}']:.4f}" for look in course.looks.values()]
        on_the_way.append([course.name, *seen])
    heads = ["", "rate", "loss, last tenth", f"right caption, t = {WATCHED}", "wrong - right"]
    heads += ["states MiB", "bytes per parameter", "update ms", "of the step"]
    steps = [f"step {step}" for step in courses[0].looks]
    return [
        *side.table(heads, rows),
        "",
        f"Loss with the right caption at t = {WATCHED}, on pictures of the training set:",
        "",
        *side.table(["", *steps], on_the_way),
    ]


def plot(courses: list[Course], path: Path) -> None:
    """Draw each training loss over the steps, as a running median."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for course in courses:
        width = max(1, len(course.losses) // 25)
        shown = range(width, len(course.losses) + 1)
        smooth = [statistics.median(course.losses[stop - width : stop]) for stop in shown]
        axes.plot(shown, smooth, label=course.name)
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.set_ylabel("flow-matching loss, running median")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def _pairs(text: str) -> list[list[str]]:
    """Read "a=1,b=2" as [[a, 1], [b, 2]]."""
    return [pair.split("=") for pair in text.split(",") if pair]


if __name__ == "__main__":
    main()
