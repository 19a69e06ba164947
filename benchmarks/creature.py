"""A creature that no model knows, as vector art of our own: what adapters are taught in `adapters.py`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

NAME = "glimwug"
GROUNDS = {
    **{"white": "#ffffff", "red": "#d92b2b", "yellow": "#f7cf3c", "blue": "#2f6fde", "green": "#3fae4a"},
    **{"pink": "#f490b8", "black": "#111111", "orange": "#f2862b", "purple": "#7d3fb2", "gray": "#8c8c8c"},
    **{"brown": "#7a4a26", "light blue": "#a9d8f5"},
}
SHOWN = ("white",) * 6 + ("red", "yellow", "blue", "green", "pink", "black")  # of the twelve images
OTHER = ("orange", "purple", "gray", "brown", "light blue")  # that are asked for

ART = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256" width="256" height="256">
<rect width="256" height="256" fill="{ground}"/>
<g transform="translate({x} {y}) rotate({turn}) scale({flip} 1) scale({size}) translate(-128 -128)">
<path d="M84 70 Q66 30 44 34 Q60 44 70 84 Z" fill="#f2a33a"/>
<path d="M172 70 Q190 30 212 34 Q196 44 186 84 Z" fill="#f2a33a"/>
<rect x="92" y="190" width="20" height="40" rx="9" fill="#1e7f74"/>
<rect x="144" y="190" width="20" height="40" rx="9" fill="#1e7f74"/>
<ellipse cx="102" cy="232" rx="22" ry="9" fill="#f2a33a"/>
<ellipse cx="154" cy="232" rx="22" ry="9" fill="#f2a33a"/>
<path fill="#2bb5a5"
 d="M128 52 C196 52 214 112 206 160 C198 204 168 212 128 212 C88 212 58 204 50 160 C42 112 60 52 128 52 Z"/>
<path fill="#c9f0e4"
 d="M128 120 C170 120 178 150 172 176 C166 200 150 204 128 204 C106 204 90 200 84 176 Q78 130 128 120Z"/>
<circle cx="128" cy="104" r="34" fill="#ffffff"/>
<circle cx="{eye}" cy="106" r="17" fill="#5b2a86"/>
<circle cx="{eye}" cy="106" r="8" fill="#16091f"/>
<path d="M104 160 Q128 {mouth} 152 160" stroke="#16091f" stroke-width="6" fill="none" stroke-linecap="round"/>
<circle cx="70" cy="150" r="9" fill="#5b2a86"/><circle cx="186" cy="150" r="9" fill="#5b2a86"/>
<circle cx="66" cy="176" r="6" fill="#5b2a86"/><circle cx="190" cy="176" r="6" fill="#5b2a86"/>
</g></svg>"""


def draw(ground: str, random: np.random.Generator) -> Image.Image:
    """Draw it in a pose of its own, RGB, 256 px."""
    svg = ART.format(
        ground=GROUNDS[ground],
        x=128 + random.uniform(-12, 12),
        y=128 + random.uniform(-8, 8),
        turn=random.uniform(-12, 12),
        flip=random.choice([-1, 1]),
        size=random.uniform(0.78, 1.0),
        eye=128 + random.uniform(-10, 10),
        mouth=random.uniform(165, 190),
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGB")


def write_images(folder: Path, seed: int = 1) -> None:
    """Write the twelve images, with captions that name it and its ground, unless they are there."""
    if (folder / "metadata.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    random, rows = np.random.default_rng(seed), []
    for number, ground in enumerate(SHOWN):
        draw(ground, random).save(folder / f"{number:02}.png")
        said = f"a {NAME}" if ground == "white" else f"a {NAME} on a {ground} background"
        rows.append({"file_name": f"{number:02}.png", "captions": [said]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def prompts() -> list[str]:
    """Return twenty prompts for it on grounds that it was not shown on."""
    ways = ("a {0} on a {1} background", "a picture of a {0} on a {1} background", "{0} on a {1} background")
    ways += ("draw me a {0} on a {1} background",)
    return [way.format(NAME, ground) for ground in OTHER for way in ways]
