"""Is an image that a model enlarges nearer to the real one than Lanczos makes it?

    python benchmarks/upscale.py [--data data/pocket] [--things 40] [--strengths 0.1 0.2 0.3 0.5]

Real drawings of known things, mirrored, are scaled down and enlarged again: from 128 px to the 256 px that
pocket learned, and from 256 px to 512 px, of which there is no real image. Printed: PSNR to the real image,
of the drawing itself and of Lanczos with its detail (`with_detail`); and the share whose thing is recognised
among all. Strength 0 is the autoencoder alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sanakit.eval.metrics.similarity import psnr
from sanakit.eval.networks.efficientnet import image_features, load_efficientnet
from sanakit.images.image import to_tensor
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.upscale.lanczos import LANCZOS, with_detail
from sanakit.pocket.data.dataset import open_pocket
from sanakit.pocket.evaluate.reference import load_known, load_reference
from sanakit.pocket.words.concepts import COMMON_CONCEPTS

SIDE = 256  # of the data set, and of what recognises


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/pocket"))
    parser.add_argument("--design", default="noto")
    parser.add_argument("--things", type=int, default=40)
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.1, 0.2, 0.3, 0.5])
    asked = parser.parse_args()
    torch.set_flush_denormal(True)

    pocket = open_pocket(asked.data)
    rows = {row.concept: i for i, row in enumerate(pocket.rows) if row.style == asked.design}
    names = [name for name in COMMON_CONCEPTS if name in rows]
    names = names[:: max(1, len(names) // asked.things)][: asked.things]
    real = [Image.fromarray(np.ascontiguousarray(pocket.images[rows[name]][:, ::-1])) for name in names]
    network, known = load_efficientnet(), load_known(load_reference())
    labels = torch.tensor([known.concepts.index(name) for name in names])
    pipe = ImageToImage.from_pretrained("pocket")

    def recognised(images: list[Image.Image]) -> str:
        shown = tensor([image.resize((SIDE, SIDE), LANCZOS) for image in images])
        ranks = known.ranks(known.project(image_features(network, shown)), labels)
        return f"{100 * (ranks == 0).float().mean().item():.0f} %"

    print(f"{len(names)} things of the design {asked.design}; real images: {recognised(real)} recognised\n")
    print("| from | strength | PSNR, drawn | PSNR, with its detail | recognised, drawn | with its detail |")
    print("|---|---|---|---|---|---|")
    for low, high in ((SIDE // 2, SIDE), (SIDE, 2 * SIDE)):
        small = [image.resize((low, low), LANCZOS) for image in real]
        plain = [image.resize((high, high), LANCZOS) for image in small]

        def near(images: list[Image.Image], high: int = high) -> str:
            return f"{psnr(tensor(images), tensor(real)).mean().item():.2f} dB" if high == SIDE else "-"

        where = f"{low} px to {high} px"
        print(f"| {where} | Lanczos | {near(plain)} | - | {recognised(plain)} | - |", flush=True)
        for strength in [0.0, *asked.strengths]:
            drawn = []
            for name, image in zip(names, plain, strict=True):
                words = {"width": high, "height": high, "binned": False, "seed": 0}
                drawn += pipe(image, COMMON_CONCEPTS[name], strength=strength, **words).images
            both = [with_detail(image, one) for image, one in zip(small, drawn, strict=True)]
            told = (near(drawn), near(both), recognised(drawn), recognised(both))
            print(f"| {where} | {strength:g} | {' | '.join(told)} |", flush=True)


def tensor(images: list[Image.Image]) -> torch.Tensor:
    """Return images of one size as B 3 H W in [-1, 1]."""
    return torch.cat([to_tensor(np.array(image)[None]) for image in images])


if __name__ == "__main__":
    main()
