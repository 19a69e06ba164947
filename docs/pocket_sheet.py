"""Draws docs/assets/pocket-sheet.png: 64 prompts, the first from seed 0, the next from seed 1 and so on.

    python docs/pocket_sheet.py [--model pocket] [--limit 64] [--output FILE]

The second half are first prompts, every third of them. The same weights give the same sheet. Its first
row is the picture of the README: --limit 8 --output docs/assets/pocket-first.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from sanakit import TextToImage
from sanakit.images.image import save
from sanakit.pocket.words.first_prompts import FIRST_PROMPTS

SHEET = Path(__file__).with_name("assets") / "pocket-sheet.png"
COLUMNS, SIDE, LINE = 8, 160, 36  # pixels: of a picture and of the two lines of its caption
PROMPTS = """
a red apple | a strawberry | a slice of pizza | a fox | a panda | a red car | a rocket | a house
a grinning face | a guitar | a unicorn | a turtle
a panda, 3D render | a tulip, soft gradient | a fox, flat vector | a pig face, cartoon
a panda on a yellow background | a rocket on a black background | two red apples
three strawberries on a pink background | four dog faces on a green background | a lion and a lemon
a white silhouette of a rocket on a blue background | a red silhouette of a fox on a yellow background
a fox to the left of a red apple | a key to the right of a castle | a panda above a house
a sunflower below an owl on a gray background | a big elephant and a small ghost
a big red heart and a small owl on a beige background | a cupcake and a robot face on an orange background
two rockets on a purple background
"""


def prompts() -> list[str]:
    """Return the prompts in the order in which they are drawn."""
    own = [prompt.strip() for line in PROMPTS.strip().splitlines() for prompt in line.split("|")]
    return [*own, *list(FIRST_PROMPTS)[::3][: len(own)]]


def draw(model: str, asked: list[str]) -> Image.Image:
    """Draw prompt i from seed i, at the model's own settings, and write its words below it."""
    pipe = TextToImage.from_pretrained(model)
    rows = -(-len(asked) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + LINE)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for first in range(0, len(asked), COLUMNS):
        together = asked[first : first + COLUMNS]
        top = first // COLUMNS * (SIDE + LINE)
        for column, image in enumerate(pipe(together, seed=first).images):
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (column * SIDE, top))
            middle = (column * SIDE + SIDE // 2, top + SIDE + LINE // 2)
            words = "\n".join(wrap(together[column], 27))
            pen.text(middle, words, fill="black", font=font, anchor="mm", align="center")
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the sheet of pocket's model card.")
    parser.add_argument("--model", default="pocket", help="catalog name or folder")
    parser.add_argument("--limit", type=int, default=64, help="draw only so many")
    parser.add_argument("--output", type=Path, default=SHEET)
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(save(draw(options.model, prompts()[: options.limit]), options.output))
