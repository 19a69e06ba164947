"""SANA-1.5 on a small model: does growing help, what does pruning cost, how far does choosing carry?

    python benchmarks/sana15.py growth   --data data/pocket [--source pocket] [--steps 300]
    python benchmarks/sana15.py pruning  --data data/pocket [--source pocket] [--steps 200] [--depths 6,4]
    python benchmarks/sana15.py best-of  [--source pocket] [--judge FOLDER] [--count 32] [--score pocket-eval]
                                         each with [--prompts 50] [--write]

growth: the same model trained further on images and scenes, as it is and grown by half, on the same
batches: loss on scenes of held-out combinations with the right, no and a wrong caption, and images
recognised.
pruning: how much each block changes its tokens; then images recognised before, after pruning, and after a
short recovery, by the images alone and taught by the whole model.
best-of: what is right among the images that the judge chose from 1, 2, 4, ... of a prompt; beside it what
an all-knowing judge would have chosen. Of N images, N / n disjoint groups stand for each n.
With --write table and plots are stored; they need matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import side_by_side as side

if TYPE_CHECKING:
    from PIL.Image import Image

    from sanakit.models.sana import Sana
    from sanakit.pocket.train.further import Change, Prepared
    from sanakit.pocket.train.latents import Mixture
    from sanakit.train.config import TrainConfig
    from sanakit.train.objectives.velocity import VelocityObjective

Score = Callable[[str, list["Image"]], Sequence[float]]  # of each image of a prompt: 1 right, 0 wrong
Curve = list[tuple[int, float]]
CASES = ("right", "empty", "wrong")  # captions


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("growth", "pruning", "best-of"))
    parser.add_argument("--source", default="pocket", help="the finished model to begin with")
    parser.add_argument("--data", type=Path, default=Path("data/pocket"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, help="pictures a step; default: the recipe's")
    parser.add_argument("--scenes", type=int, default=8000, help="composed to train on")
    parser.add_argument("--depths", type=side.numbers, help="blocks kept; default: half of them")
    parser.add_argument("--prompts", type=int, help="how many to draw for each score; default: all")
    parser.add_argument("--count", type=int, default=32, help="pictures of a prompt")
    parser.add_argument("--judge", default="pocket-clip", help="CLIP that chooses: name or folder")
    parser.add_argument("--score", choices=("pocket-eval", "recognition"), default="pocket-eval")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for the runs; default: a temporary one")
    parser.add_argument("--write", action="store_true", help="store tables and plots in benchmarks/results/")
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        measure = {"growth": growth, "pruning": pruning, "best-of": best_of}[asked.what]
        side.publish(measure(asked, work), f"sana15-{asked.what}", write=asked.write)


def growth(asked: argparse.Namespace, work: Path) -> list[str]:
    """Train the model as it is, and grown."""
    from sanakit.pocket.recipes.grow import TRAINING
    from sanakit.pocket.train.further import prepare
    from sanakit.train.surgery.growth import grow
    from sanakit.weights.settings import load_configs

    old = load_configs(asked.source)[0].depth
    depth = old + old // 2
    arms: dict[str, Change] = {
        f"{old} blocks, as it is": lambda objective: objective,
        f"{depth} blocks, grown": lambda objective: objective.with_transformer(
            grow(objective.transformer, depth, drop_last=0)
        ),
    }
    config = shortened(TRAINING, asked)
    prepared = prepare(asked.data, asked.source, mixture(asked))
    curves, seconds = {}, {}
    ends = [["before", *recognised(asked, asked.source)]]
    for number, (name, change) in enumerate(arms.items()):
        folder = work / f"growth-{number}"
        curves[name], seconds[name] = trained(prepared, config, change, folder)
        ends.append([name, *recognised(asked, folder / "model")])
    rows = [
        [name, step, *(f"{measured[case]:.4f}" for case in CASES), f"{seconds[name]:.2f}"]
        for name, curve in curves.items()
        for step, measured in curve
    ]
    what = f"Model {asked.source}, {config.batch_size} pictures a step, the same for all."
    lines = side.heading("Growing against going on", what) + [""]
    lines += side.table(["model", "step", *(f"loss, {case} caption" for case in CASES), "s/step"], rows)
    lines += ["", *side.table(["model", "top-1", "top-5", "s/picture"], ends)]
    plotted = {
        name: [(step, measured["right"]) for step, measured in curve] for name, curve in curves.items()
    }
    return lines + drawn(asked, plotted, "growth", "steps", "loss with the right caption")


def pruning(asked: argparse.Namespace, work: Path) -> list[str]:
    """Rank the blocks, prune to each depth, recover; recognition at every stage."""
    from sanakit.pocket.recipes.prune import KEPT_SHARE, RECOVERY, taught
    from sanakit.pocket.train.further import further_run, prepare
    from sanakit.train.surgery.pruning import block_importance, calibration, kept_blocks, prune

    config = shortened(RECOVERY, asked)
    importance: list[float] = []

    def measured(objective: VelocityObjective) -> VelocityObjective:
        importance[:] = block_importance(objective.transformer, calibration(objective)).tolist()
        return objective

    prepared = prepare(asked.data, asked.source, mixture(asked))
    further_run(prepared, config, measured)
    depths = asked.depths or [max(1, round(KEPT_SHARE * len(importance)))]
    lines = side.heading("Pruning", f"Model {asked.source}, {config.batch_size} pictures a step.") + [""]
    kept = {depth: kept_blocks(importance, depth) for depth in depths}
    lines += side.table(
        ["block", "importance", *(f"kept of {depth}" for depth in depths)],
        [
            [i, f"{value:.4f}", *("x" if i in kept[depth] else "" for depth in depths)]
            for i, value in enumerate(importance)
        ],
    )
    rows = [["unpruned", len(importance), *recognised(asked, asked.source), ""]]
    curves: dict[str, Curve] = {}
    for depth in depths:

        def left(whole: Sana, depth: int = depth) -> Sana:
            return prune(whole, importance, depth)

        arms: dict[str, Change] = {
            "by pictures alone": lambda objective, left=left: objective.with_transformer(
                left(objective.transformer)
            ),
            "taught": lambda objective, depth=depth: taught(objective, importance, depth),
        }
        bare = work / f"pruned-{depth}.model"
        save_with(asked.source, left, bare)
        rows.append(["pruned", depth, *recognised(asked, bare), ""])
        for name, change in arms.items():
            folder = work / f"{name.replace(' ', '-')}-{depth}"
            curve, seconds = trained(prepared, config, change, folder)
            found = recognised(asked, folder / "model")
            rows.append([f"{config.steps} steps later, {name}", depth, *found, f"{seconds:.2f}"])
            curves[f"{depth} blocks, {name}"] = [(step, case["right"]) for step, case in curve]
    lines += ["", *side.table(["model", "blocks", "top-1", "top-5", "s/picture", "s/step"], rows)]
    return lines + drawn(asked, curves, "pruning", "steps", "loss with the right caption")


def best_of(asked: argparse.Namespace, work: Path) -> list[str]:
    """Let the judge choose among 1, 2, 4, ... images of each prompt, and score what it chose."""
    from sanakit.pipelines.best_of import BestOf
    from sanakit.pipelines.text_to_image import TextToImage

    judge = clip_judge(asked.judge)
    prompts, score = {"pocket-eval": pocket_eval, "recognition": recognition}[asked.score]()
    prompts = prompts[:: max(1, len(prompts) // (asked.prompts or len(prompts)))][: asked.prompts]
    pipe = TextToImage.from_pretrained(asked.source)
    liked: list[list[float]] = []  # by prompt and image: what the judge says
    right: list[list[float]] = []  # and what is so

    def both(prompt: str, images: list[Image]) -> Sequence[float]:
        right[-1].extend(score(prompt, images))
        return judge(prompt, images)

    chooser = BestOf(pipe, both, batch=min(16, asked.count))
    for number, prompt in enumerate(prompts):
        right.append([])
        trials = chooser.stream(prompt, count=asked.count, seed=number * asked.count)
        liked.append([trial.score or 0.0 for trial in trials])
    chosen, knowing = chosen_and_best(liked, right)
    title = f"Model {asked.source}, judge {asked.judge}, score {asked.score}, {len(prompts)} prompts."
    lines = side.heading("Best of N", title) + [""]
    lines += side.table(
        ["N", "right, the judge's choice", "right, if any is"],
        [[n, f"{value:.1%}", f"{most:.1%}"] for (n, value), (_, most) in zip(chosen, knowing, strict=True)],
    )
    curves = {"the judge's choice": chosen, "if any is right": knowing}
    return lines + drawn(asked, curves, "best-of", "pictures to choose from, N", "share right", doubling=True)


def chosen_and_best(
    liked: Sequence[Sequence[float]], right: Sequence[Sequence[float]]
) -> tuple[Curve, Curve]:
    """Mean score of what the judge chose from n images, and of the best of them, for n = 1, 2, 4, ..."""
    count = len(liked[0])
    chosen: Curve = []
    knowing: Curve = []
    n = 1
    while n <= count:
        picks, bests = [], []
        for judged, scores in zip(liked, right, strict=True):
            for start in range(0, count - n + 1, n):
                group = range(start, start + n)
                picks.append(scores[max(group, key=lambda i: judged[i])])
                bests.append(max(scores[i] for i in group))
        chosen.append((n, sum(picks) / len(picks)))
        knowing.append((n, sum(bests) / len(bests)))
        n *= 2
    return chosen, knowing


def mixture(asked: argparse.Namespace) -> Mixture:
    """Images and scenes as pocket is trained on them, but fewer scenes: encoding them takes its time."""
    from sanakit.pocket.recipes.prune import MIXTURE

    return replace(MIXTURE, scenes=asked.scenes)


def shortened(config: TrainConfig, asked: argparse.Namespace) -> TrainConfig:
    """The recipe's settings for the steps and batch that were asked for, measured five times."""
    often = max(1, asked.steps // 5)
    return replace(
        config,
        steps=asked.steps,
        batch_size=asked.batch or config.batch_size,
        warmup_steps=min(config.warmup_steps, often),
        compile=False,  # measuring meets many shapes, each of which would be compiled
        evaluate_every=often,
        log_every=often,
        sheet_every=asked.steps,
        checkpoint_every=asked.steps,
        ema_decay=max(0.0, min(config.ema_decay, 1 - 3 / asked.steps)),  # over a third of the steps at most
    )


def trained(
    prepared: Prepared, config: TrainConfig, change: Change, folder: Path
) -> tuple[list[tuple[int, dict[str, float]]], float]:
    """Train the changed model: losses by caption at every measured step, and seconds a step."""
    import torch

    from sanakit.pocket.train.further import further_run
    from sanakit.train.loop import train

    torch.set_grad_enabled(True)  # benchmarks of drawing do without
    run = further_run(prepared, config, change)
    curve = [(0, by_case(run.objective.evaluate(run.objective.model)))]
    seconds = 0.0
    for progress in train(run.objective, config, folder):
        curve.append((progress.step, by_case(progress.metrics)))
        seconds = config.batch_size / progress.samples_per_second
    run.finish(folder)
    return curve, seconds


def by_case(metrics: Mapping[str, float]) -> dict[str, float]:
    """Mean over the noise levels of the losses on held-out scenes, by caption."""
    found = {}
    for case in CASES:
        values = [value for name, value in metrics.items() if name.startswith(f"held_out_{case}_")]
        found[case] = sum(values) / len(values)
    return found


def save_with(source: str, change: Callable[[Sana], Sana], folder: Path) -> None:
    """Write the source with its transformer changed and not trained."""
    from sanakit.weights import (
        load_autoencoder,
        load_settings,
        load_text_encoder,
        load_transformer,
        save_diffusers,
    )

    settings = load_settings(source)
    save_diffusers(
        folder,
        transformer=change(load_transformer(source)),
        autoencoder=load_autoencoder(source),
        text_encoder=load_text_encoder(source),
        flow_shift=settings.flow_shift,
        defaults={
            name: getattr(settings, name) for name in ("steps", "guidance", "width", "height", "solver")
        },
        name=folder.name,
    )


def recognised(asked: argparse.Namespace, model: str | Path) -> list[str]:
    """Shares of 200 common things that are recognised, and the time of drawing one."""
    from sanakit.pocket.evaluate.reference import load_reference
    from sanakit.pocket.evaluate.report import evaluate_pocket

    names = load_reference().gallery.concepts
    some = names if asked.prompts is None else names[: asked.prompts]
    report = evaluate_pocket(model, concepts=some)
    return [f"{report.top1:.1%}", f"{report.top5:.1%}", f"{report.seconds_per_picture:.2f}"]


def clip_judge(model: str) -> Callable[[str, list[Image]], Sequence[float]]:
    """A CLIP that scores images by the cosine with their prompt."""
    from sanakit.data.annotate.scoring import clip_scorer

    score = clip_scorer(model)
    return lambda prompt, images: score(images, [prompt] * len(images))


def recognition() -> tuple[list[str], Score]:
    """Two hundred common things; an image is right that is recognised as what was asked for."""
    import torch

    from sanakit.eval.networks.efficientnet import image_features, load_efficientnet
    from sanakit.pocket.evaluate.reference import load_reference

    network, reference = load_efficientnet(), load_reference()

    def score(prompt: str, images: list[Image]) -> list[float]:
        points = reference.gallery.project(image_features(network, tensor_of(images)))
        label = torch.full((len(images),), reference.prompts.index(prompt))
        return (reference.gallery.ranks(points, label) == 0).float().tolist()

    return list(reference.prompts), score


def pocket_eval() -> tuple[list[str], Score]:
    """PocketEval's questions about composed scenes; an image is right in which all holds."""
    from sanakit.pocket.evaluate.judge import load_judge
    from sanakit.pocket.evaluate.pocket_eval import Question, judged

    judge, notes = load_judge()
    questions = [Question(**{**row, "concepts": tuple(row["concepts"])}) for row in notes["questions"]]
    asked = {question.prompt: question for question in questions}

    def score(prompt: str, images: list[Image]) -> list[float]:
        return [float(one) for one in judged(judge, [asked[prompt]] * len(images), tensor_of(images))]

    return list(asked), score


def tensor_of(images: list[Image]) -> Any:
    """Return images as B 3 H W in [-1, 1]."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def drawn(
    asked: argparse.Namespace,
    curves: Mapping[str, Curve],
    name: str,
    along: str,
    up: str,
    *,
    doubling: bool = False,
) -> list[str]:
    """Store a plot beside the table, if asked, and return the line that shows it."""
    if not asked.write:
        return []
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for label, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), marker="o", markersize=3, label=label)
    if doubling:
        axes.set_xscale("log", base=2)
        ticks = [x for x, _ in next(iter(curves.values()))]
        axes.set_xticks(ticks, [str(x) for x in ticks])
    axes.set_xlabel(along)
    axes.set_ylabel(up)
    axes.legend()
    path = side.result_path(f"sana15-{name}.svg")
    figure.savefig(path, metadata={"Date": None})
    return ["", f"![{up}]({path.name})"]


if __name__ == "__main__":
    main()
