"""What an adapter learns of twelve images, and what the model forgets meanwhile, on the embedded model.

    python benchmarks/adapters.py FOLDER [--recipe lora|dreambooth] [--steps N] [--rank N] [--rate X]

Trains a creature that the model does not know (`creature.py`). Then: the share of 20 prompts, on grounds that
it was not shown on, whose image is nearer to it, as the autoencoder gives it back, than to any of 1,366
things; and the share of 100 known things that are recognised among 500, before and after. dreambooth keeps
the model to images of 100 other things. A run that is finished is only measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import creature
import numpy as np
import torch
import torch.nn.functional as F

from sanakit.eval.networks.efficientnet import image_features, load_efficientnet
from sanakit.images.image import to_tensor
from sanakit.images.sheets import contact_sheet
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.pocket.evaluate.reference import load_known, load_reference
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.recipes import RECIPES
from sanakit.train.run import run_recipe
from sanakit.weights import load_autoencoder

THINGS = {**COMMON_CONCEPTS, **FURTHER_CONCEPTS}
MEASURED = dict(list(THINGS.items())[::5])
KEPT = list(THINGS.values())[2::5]
BATCH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="new: images, run and sheet")
    parser.add_argument("--recipe", choices=("lora", "dreambooth"), default="lora")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--prompts", type=int, default=len(KEPT), help="of the class (dreambooth)")
    asked = parser.parse_args()
    torch.set_flush_denormal(True)

    creature.write_images(asked.folder / "images")
    run = asked.folder / asked.recipe
    started = perf_counter()
    more = {"rank": asked.rank, "learning_rate": asked.rate}
    if asked.recipe == "dreambooth":
        more["class_prompts"] = tuple(KEPT[: asked.prompts])
    for progress in run_recipe(
        asked.recipe,
        RECIPES,
        data=asked.folder / "images",
        output=run,
        steps=asked.steps,
        resume=True,
        more=more,
    ):
        print(f"step {progress.step} of {progress.total}, loss {progress.loss:.3f}", flush=True)
    minutes = (perf_counter() - started) / 60

    pipe = TextToImage.from_pretrained("pocket")
    before = recognised(pipe)
    pipe.load_adapter(run / f"{run.name}.safetensors")
    new = taught(pipe, asked.folder / f"{asked.recipe}.png")
    after = recognised(pipe)
    print(f"{asked.recipe}, {minutes:.1f} minutes: of 20 prompts {100 * new:.0f} % show the new thing;")
    print(f"of 100 known things {100 * before:.0f} % are recognised before, {100 * after:.0f} % after")


def recognised(pipe: TextToImage) -> float:
    """Return the share of known things that are recognised among 500."""
    network, known = load_efficientnet(), load_known(load_reference())
    listed = torch.tensor([concept in THINGS for concept in known.concepts])
    numbers = torch.tensor([known.concepts.index(concept) for concept in MEASURED])
    points = known.project(image_features(network, drawn(pipe, list(MEASURED.values()))))
    best = known.similarity(points).masked_fill(~listed, -torch.inf).argmax(1)
    return (best == numbers).float().mean().item()


def taught(pipe: TextToImage, sheet: Path) -> float:
    """Return the share of prompts for the creature that draw what is nearest to it, and save a sheet."""
    network, known = load_efficientnet(), load_known(load_reference())
    codec = load_autoencoder("pocket", part="both", dtype="float32").eval()
    random = np.random.default_rng(2)  # other poses than those that it was taught by
    real = to_tensor(np.stack([np.asarray(creature.draw(one, random)) for one in creature.GROUNDS]))
    with torch.no_grad():
        possible = codec.decode(codec.encode(real)).clamp(-1, 1)
    own = known.project(image_features(network, possible)).sum(0)
    images = drawn(pipe, creature.prompts())
    points = known.project(image_features(network, images))
    contact_sheet(images, 5).save(sheet)
    nearest = points @ F.normalize(own, dim=0)
    return (nearest > known.similarity(points).max(1).values).float().mean().item()


def drawn(pipe: TextToImage, prompts: list[str]) -> torch.Tensor:
    """Draw prompts, prompt i from seed i."""
    parts = [prompts[first : first + BATCH] for first in range(0, len(prompts), BATCH)]
    return torch.cat([pipe(part, seed=BATCH * n, output="pt").images for n, part in enumerate(parts)])


if __name__ == "__main__":
    main()
