"""What weights of words change on the embedded model, and a strip of images to look at.

    python benchmarks/prompt_weights.py [--model pocket] [--questions 50] [--seeds 2] [--strip FILE]

Questions of PocketEval are drawn with a weight on some of their words, and judged. "two": two things, the
second weighs; "ground": a thing on a coloured ground, whose colour weighs.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pocket.data.palette import ground_of
from sanakit.pocket.evaluate.judge import load_judge

WEIGHTS = (0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0)
WEIGHED = {"two": r"and an? (.+?)(?= on an? |$)", "ground": r"on an? (.+) background"}
BATCH = 10
SHOWN = (0.0, 0.3, 1.0, 2.0, 5.0)  # of the strip
PROMPTS = (  # and what stands for {}
    ("a fox and a ({})", "star"),
    ("a penguin and a ({})", "red balloon"),
    ("a strawberry and a ({})", "tent"),
    ("a dog on a ({}) background", "green"),
    ("a ({}) car", "blue"),
)
SIDE, LABEL = 128, 60  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--questions", type=int, default=50, help="of each kind")
    parser.add_argument("--seeds", type=int, default=2, help="of each question")
    parser.add_argument("--weights", type=float, nargs="*", default=WEIGHTS)
    parser.add_argument("--strip", type=Path, help="save the strip as this file")
    asked = parser.parse_args()
    torch.set_flush_denormal(True)
    pipe = TextToImage.from_pretrained(asked.model)
    if asked.strip is not None:
        strip(pipe).save(asked.strip)
        return
    judge, notes = load_judge()

    def drawn(kind: str, weight: float, seed: int) -> list[tuple[dict, torch.Tensor]]:
        questions = [row for row in notes["questions"] if row["kind"] == kind][: asked.questions]
        found = []
        for first in range(0, len(questions), BATCH):
            part = questions[first : first + BATCH]
            prompts = [weighed(row["prompt"], WEIGHED[kind], weight) for row in part]
            images = pipe(prompts, seed=seed + first, output="pt", prompt_weights=True).images
            found += zip(part, images, strict=True)
        return found

    print("weight  first  second  only the second  side of the second  ground")
    for weight in asked.weights:
        firsts = seconds = alone = grounds = 0
        sides: list[float] = []
        two = [one for n in range(asked.seeds) for one in drawn("two", weight, 1000 * n)]
        for row, image in two:
            seen = {thing.concept: thing.side for thing in judge.look(image[None])[0]}
            first, second = row["concepts"]
            firsts, seconds = firsts + (first in seen), seconds + (second in seen)
            alone += set(seen) == {second}
            sides += [seen[second]] if second in seen else []
        ground = [one for n in range(asked.seeds) for one in drawn("ground", weight, 1000 * n)]
        grounds = sum(ground_of(image) == row["ground"] for row, image in ground)
        side = sum(sides) / len(sides) if sides else float("nan")
        print(
            f"{weight:6g} {100 * firsts / len(two):5.0f}% {100 * seconds / len(two):6.0f}% "
            f"{100 * alone / len(two):15.0f}% {side:16.0f} px {100 * grounds / len(ground):6.0f}%",
            flush=True,
        )


def weighed(prompt: str, words: str, weight: float) -> str:
    """Return a prompt with a weight on the words that a pattern's group finds."""
    found = re.search(words, prompt)
    assert found is not None, prompt
    return f"{prompt[: found.start(1)]}({found[1]}:{weight:g}){prompt[found.end(1) :]}"


def strip(pipe: TextToImage) -> Image.Image:
    """Lay out a row of images for each weight, which stands on the left."""
    sheet = Image.new("RGB", (LABEL + SIDE * len(PROMPTS), SIDE * len(SHOWN)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, weight in enumerate(SHOWN):
        pen.text((8, SIDE * i + SIDE // 2), f"{weight:g}", fill="black", font=font, anchor="lm")
        prompts = [prompt.format(f"{words}:{weight:g}") for prompt, words in PROMPTS]
        for j, image in enumerate(pipe(prompts, seed=7, prompt_weights=True).images):
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (LABEL + SIDE * j, SIDE * i))
    return sheet


if __name__ == "__main__":
    main()
