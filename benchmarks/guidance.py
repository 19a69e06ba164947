"""What each kind of guidance gives and costs on the embedded model, and a strip of images to look at.

    python benchmarks/guidance.py [--model pocket] [--things 100] [--questions 10] [--strip FILE]

For each kind: the share of things recognised among 500 (top-1, plain names, seed 0), the share of scenes that
are as asked (PocketEval), and seconds of denoising an image on this machine, in batches of 8.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sanakit.eval.networks.efficientnet import image_features, load_efficientnet
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pocket.evaluate.pocket_eval import evaluate_scenes
from sanakit.pocket.evaluate.reference import load_known, load_reference
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS

KINDS = (
    "cfg",
    "interval=0-0.95",
    "interval=0.2-1",
    "interval=0.5-1",
    "rescale=0.7",
    "apg",
    "zero-star",
    "pag=1",
    "pag=1,interval=0.5-1",
)
BATCH = 8
PROMPTS = ("a dog", "a red car", "a house with a garden", "two red apples", "a panda above a house")
SIDE, LABEL = 128, 170  # pixels


@dataclass
class Cost:
    """Counts what drawing took."""

    images: int = 0
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--things", type=int, default=100, help="of 500")
    parser.add_argument("--questions", type=int, default=10, help="of each kind")
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--strip", type=Path, help="save the strip as this file")
    asked = parser.parse_args()
    torch.set_flush_denormal(True)

    pipe = TextToImage.from_pretrained(asked.model)
    network, known = load_efficientnet(), load_known(load_reference())
    things = {**COMMON_CONCEPTS, **FURTHER_CONCEPTS}
    every = max(1, len(things) // asked.things)
    names = dict(list(things.items())[::every][: asked.things])
    numbers = torch.tensor([known.concepts.index(concept) for concept in names])
    listed = torch.tensor([concept in things for concept in known.concepts])
    cost = Cost()

    def draw(prompts: Sequence[str], seed: int) -> Tensor:
        parts = []
        for first in range(0, len(prompts), BATCH):
            result = pipe(list(prompts[first : first + BATCH]), seed=seed + first, output="pt")
            cost.images += len(result.seeds)
            cost.seconds += result.timings["denoise"]
            parts.append(result.images)
        return torch.cat(parts)

    print(f"{'kind':24} things  scenes  s an image")
    rows = []
    for kind in asked.kinds:
        pipe.settings, cost = replace(pipe.settings, guidance_kind=kind), Cost()
        similarity = known.similarity(known.project(image_features(network, draw(list(names.values()), 0))))
        best = similarity.masked_fill(~listed, -torch.inf).argmax(1)
        recognised = (best == numbers).float().mean().item()
        scenes = evaluate_scenes(draw, per_kind=asked.questions).shares
        print(
            f"{kind:24} {100 * recognised:5.1f}%  {100 * sum(scenes.values()) / len(scenes):5.1f}%  "
            f"{cost.seconds / cost.images:10.3f}",
            flush=True,
        )
        rows.append(pipe(list(PROMPTS), seed=0).images)
    if asked.strip is not None:
        strip(list(asked.kinds), rows).save(asked.strip)


def strip(kinds: Sequence[str], rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Lay out a row of images for each kind, its name on the left."""
    sheet = Image.new("RGB", (LABEL + SIDE * len(rows[0]), SIDE * len(rows)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (kind, images) in enumerate(zip(kinds, rows, strict=True)):
        pen.text((8, SIDE * i + SIDE // 2), kind, fill="black", font=font, anchor="lm")
        for j, image in enumerate(images):
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (LABEL + SIDE * j, SIDE * i))
    return sheet


if __name__ == "__main__":
    main()
