"""The caption sampler: how many of the captions it draws are right, by temperature and threshold.

    python benchmarks/captions.py --data POCKET_DATA [--model pocket-clip] [--pictures 500] [--write]

Images: composed scenes whose combinations no training showed. Each has seven captions: two right ones, two
that are wrong in one detail (order, number, colour, ground, a thing), two of other images, and one that is
true of anything ("a picture"). A CLIP scores them; then the chance of each is computed, not sampled. Beside
the part of right ones stands the number of captions that are effectively in play (exp of the entropy): always
drawing the best one is the safest and the poorest. Uniform drawing is what a trainer without scores does.
With --write a plot is stored beside the table; it needs matplotlib.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import side_by_side as side

RIGHT, DETAIL, OTHER, VAGUE = "right", "one detail wrong", "of another picture", "vague"
KINDS: tuple[str, ...] = (RIGHT, DETAIL, OTHER, VAGUE)
VAGUE_TEXTS = ("a picture", "an image of something", "some things", "a drawing of objects", "an illustration")
TEMPERATURES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # points of score
SHOWN = (0.1, 1.0, 3.0, 10.0)  # in the table
BATCH = 16  # images


@dataclass(frozen=True)
class CaptionedImage:
    """An image's captions, the kind of each, and the scores they got."""

    captions: list  # of Caption, scored
    kinds: list[str]


@dataclass(frozen=True)
class Drawn:
    """Means over the images. parts: of the draws, by kind. in_play: effective number of captions."""

    parts: dict[str, float]
    in_play: float


def main() -> None:
    """Score captions of known kinds and print what would be drawn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="as `sana data pocket` builds it")
    parser.add_argument("--model", default="pocket-clip", help="pocket-clip, or a CLIP's folder")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="store table and plot in benchmarks/results/")
    asked = parser.parse_args()
    side.use_threads(asked.threads)

    images = scored_images(asked.data, asked.model, asked.pictures)
    scores = {
        kind: [one.score for p in images for one, its in zip(p.captions, p.kinds, strict=True) if its == kind]
        for kind in KINDS
    }
    every = sorted(score for of_kind in scores.values() for score in of_kind)
    middle, upper = (round(every[int(len(every) * part)], 1) for part in (0.5, 0.75))
    thresholds = {
        "none": -math.inf,
        f"{middle:g} (median of all scores)": middle,
        f"{upper:g} (upper quarter)": upper,
    }
    curves = {
        name: [drawn(images, temperature, threshold) for temperature in TEMPERATURES]
        for name, threshold in thresholds.items()
    }
    uniform = drawn(images, math.inf, -math.inf)

    rows = [row("uniform", "none", uniform)]
    for name, points in curves.items():
        for temperature, point in zip(TEMPERATURES, points, strict=True):
            if temperature in SHOWN:
                rows.append(row(f"softmax, {temperature:g}", name, point))
    rows.append(row("the published 0.1", "the published 25", drawn(images, 0.1, 25.0)))
    model = Path(asked.model).name
    lines = side.heading(
        "Caption sampler", f"Scores by {model}, {asked.pictures} held-out scenes, 7 captions each."
    )
    lines += ["", "What is drawn, mean over the pictures:", ""]
    lines += side.table(("drawing, temperature", "threshold", *KINDS, "captions in play"), rows)
    lines += ["", f"The scores that {model} gave:", ""]
    lines += side.table(
        ("captions", "mean", "standard deviation", "reach 25"),
        [
            (
                kind,
                f"{statistics.mean(values):.1f}",
                f"{statistics.stdev(values):.1f}",
                f"{statistics.mean(score >= 25 for score in values):.0%}",
            )
            for kind, values in scores.items()
        ],
    )
    if asked.write:
        path = side.result_path("caption-sampler.svg")
        plot(curves, uniform, path)
        lines += ["", f"![part of right captions, and captions in play, over the temperature]({path.name})"]
    side.publish(lines, "caption-sampler", write=asked.write)


def scored_images(data: Path, model: str, count: int) -> list[CaptionedImage]:
    """Compose held-out scenes, give each its captions, and score them."""
    import numpy as np
    from PIL import Image

    from sanakit.data.annotate.scoring import clip_scorer
    from sanakit.data.read.captions import Caption
    from sanakit.pocket.data.dataset import open_pocket
    from sanakit.pocket.data.scenes import Scenes
    from sanakit.pocket.train.clip import wrong_captions

    score = clip_scorer(model, device="cpu")
    scenes = Scenes(open_pocket(data), count, seed=2, held_out=True)
    found = []
    for start in range(0, count, BATCH):
        images, texts = [], []
        for index in range(start, min(start + BATCH, count)):
            random = np.random.default_rng((2, index))
            scene = scenes.scene(index)
            first, second = random.choice(len(scene.captions), 2, replace=False)
            others = others_of(scenes, index, random)
            texts.append(
                [(scene.captions[which], RIGHT) for which in (first, second)]
                + [(text, DETAIL) for text in wrong_captions(scene, int(first), random)]
                + [(other.captions[random.integers(len(other.captions))], OTHER) for other in others]
                + [(VAGUE_TEXTS[random.integers(len(VAGUE_TEXTS))], VAGUE)]
            )
            images.append(Image.fromarray(scenes.compose(scene)))
        scores = iter(
            score(
                [image for image, own in zip(images, texts, strict=True) for _ in own],
                [text for own in texts for text, _ in own],
            )
        )
        for own in texts:
            captions = [Caption(text, next(scores)) for text, _ in own]
            found.append(CaptionedImage(captions, [kind for _, kind in own]))
    return found


def others_of(scenes, index: int, random) -> list:
    """Two other scenes that show other things."""
    here, found = {thing.concept for thing in scenes.scene(index).objects}, []
    while len(found) < 2:
        other = scenes.scene(int(random.integers(len(scenes))))
        if not here & {thing.concept for thing in other.objects}:
            found.append(other)
    return found


def drawn(images: list[CaptionedImage], temperature: float, threshold: float) -> Drawn:
    """What the sampler draws, exactly: means of chances over the images."""
    from sanakit.data.read.captions import caption_chances

    parts, in_play = dict.fromkeys(KINDS, 0.0), 0.0
    for image in images:
        chances = caption_chances(image.captions, temperature=temperature, threshold=threshold)
        for kind, chance in zip(image.kinds, chances, strict=True):
            parts[kind] += chance / len(images)
        in_play += math.exp(-sum(chance * math.log(chance) for chance in chances if chance)) / len(images)
    return Drawn(parts, in_play)


def row(drawing: str, threshold: str, point: Drawn) -> list[str]:
    """A line of the table."""
    return [drawing, threshold, *(f"{point.parts[kind]:.1%}" for kind in KINDS), f"{point.in_play:.2f}"]


def plot(curves: dict[str, list[Drawn]], uniform: Drawn, path: Path) -> None:
    """Draw the part of right captions and the captions in play over the temperature, a line a threshold."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (right, play) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name, points in curves.items():
        right.plot(
            TEMPERATURES, [100 * p.parts[RIGHT] for p in points], marker="o", label=f"threshold {name}"
        )
        play.plot(TEMPERATURES, [p.in_play for p in points], marker="o")
    right.axhline(100 * uniform.parts[RIGHT], color="0.5", linestyle="--", label="uniform")
    play.axhline(uniform.in_play, color="0.5", linestyle="--")
    right.set_ylim(0, 100)
    right.set_ylabel("right captions, % of draws")
    play.set_ylim(0, None)
    play.set_ylabel("captions in play a picture")
    for axes in (right, play):
        axes.set_xscale("log")
        axes.set_xlabel("temperature, points of score")
    right.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
