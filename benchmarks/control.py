"""Does the embedded model follow a hint? Edges of what is drawn against those that were asked for.

    python benchmarks/control.py CONTROLNET [--data data/pocket] [--things 100] [--scales 0 1] [--end 1]
        [--strip FILE]

Hints are of the kind that the ControlNet was trained on, made of mirrored drawings of known things; prompts
are plain names. F1 compares the edges of the drawing with those of the image: an edge pixel counts as met
where the other has one within two pixels. Recognition is the share of images whose thing is recognised among
500; scale 0 is the model alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sanakit.eval.networks.efficientnet import image_features, load_efficientnet
from sanakit.images.hints import HintKind, edges, make_hint
from sanakit.images.image import to_pil
from sanakit.pipelines.control import ControlImage
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.evaluate.reference import load_known, load_reference
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.weights.control import hint_of

THINGS = {**COMMON_CONCEPTS, **FURTHER_CONCEPTS}
NEAR = 2  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("controlnet")
    parser.add_argument("--data", type=Path, default=Path("data/pocket"))
    parser.add_argument("--design", default="noto")
    parser.add_argument("--things", type=int, default=100)
    parser.add_argument("--scales", type=float, nargs="*", default=[0.0, 0.5, 1.0])
    parser.add_argument("--end", type=float, default=1.0, help="share of the steps until which it steers")
    parser.add_argument("--strip", type=Path)
    asked = parser.parse_args()
    torch.set_flush_denormal(True)

    pocket = open_pocket(asked.data)
    rows = {row.concept: i for i, row in enumerate(pocket.rows) if row.style == asked.design}
    names = [name for name in THINGS if name in rows]
    names = names[:: max(1, len(names) // asked.things)][: asked.things]
    drawings = [Image.fromarray(pocket.images[rows[name]][:, ::-1]) for name in names]
    kind = cast(HintKind, hint_of(asked.controlnet) or "edges")
    hints = [make_hint(drawing, kind) for drawing in drawings]
    pipe = TextToImage.from_pretrained("pocket", control_model=asked.controlnet)
    network, known = load_efficientnet(), load_known(load_reference())
    listed = torch.tensor([concept in THINGS for concept in known.concepts])
    numbers = torch.tensor([known.concepts.index(name) for name in names])
    apart = max(1, len(hints) // 8)
    shown = [hints[::apart][:8]]
    print(f"{len(names)} things, {kind} of the design {asked.design}")
    for scale in asked.scales:
        drawn = torch.cat(
            [
                pipe(
                    THINGS[name],
                    seed=i,
                    output="pt",
                    control=ControlImage(hint, kind="as-is", scale=scale, end=asked.end),
                ).images
                for i, (name, hint) in enumerate(zip(names, hints, strict=True))
            ]
        )
        images = to_pil(drawn)
        pairs = zip(drawings, images, strict=True)
        scores = [f1(edges(grey(drawing)), edges(grey(image))) for drawing, image in pairs]
        similarity = known.similarity(known.project(image_features(network, drawn)))
        right = (similarity.masked_fill(~listed, -torch.inf).argmax(1) == numbers).float().mean().item()
        print(f"scale {scale:g}: F1 {np.mean(scores):.3f}, recognised {100 * right:.0f} %", flush=True)
        shown.append(images[::apart][:8])
    if asked.strip is not None:
        sheet = Image.new("RGB", (8 * 128, len(shown) * 128))
        for y, row in enumerate(shown):
            for x, image in enumerate(row):
                sheet.paste(image.resize((128, 128), Image.Resampling.LANCZOS), (128 * x, 128 * y))
        sheet.save(asked.strip)


def grey(image: Image.Image) -> np.ndarray:
    """Return H W in [0, 1]."""
    return np.asarray(image.convert("L"), dtype=np.float64) / 255


def f1(wanted: np.ndarray, found: np.ndarray) -> float:
    """Return the harmonic mean of precision and recall of edges, H W of bool, within `NEAR` pixels."""
    precision = (found & wide(wanted)).sum() / max(1, found.sum())
    recall = (wanted & wide(found)).sum() / max(1, wanted.sum())
    return 2 * precision * recall / max(1e-9, precision + recall)


def wide(where: np.ndarray) -> np.ndarray:
    """Return what lies within `NEAR` pixels of where it is true."""
    values = torch.from_numpy(where).float()[None, None]
    return F.max_pool2d(values, 2 * NEAR + 1, stride=1, padding=NEAR)[0, 0].bool().numpy()


if __name__ == "__main__":
    main()
