"""How much each difference between NVIDIA's scripts and diffusers changes an image of the embedded model.

    python benchmarks/dialects.py [--model pocket] [--seeds 2]

Each difference is switched on alone, on the same prompts, seeds and weights; in the end all together. Figures
are levels of 255, of all images: mean and largest. The last row is another seed, for comparison. Bins are
counted: the share of shapes from 1:4 to 4:1 that another bin is drawn for. The embedded language model does
not see as far back as the quotes of its instruction: an untrained one, which does, shows what they change.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from sanakit.dialect import CROSS_NORM_EPS, USUAL
from sanakit.images.image import nearest_bin, to_levels
from sanakit.models.gemma2 import Gemma2
from sanakit.pipelines.denoise import Batch, begin
from sanakit.pipelines.request import check_request, make_sampler
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION, clean_prompt
from sanakit.text.native import script_prompt

PROMPTS = ("A Red Apple", "A Green Frog", "A Panda", "A Yellow Banana", "A Sailboat", "A Cat Face")
SHAPES = np.geomspace(0.25, 4, 1000)


@dataclass(frozen=True, kw_only=True)
class Way:
    """What is done as the scripts do it; the rest as diffusers does."""

    null: bool = False
    letters: bool = False
    shift: float | None = None
    quotes: bool = False
    eps: bool = False
    whole: bool | None = None
    solver: str = "dpm"


WAYS = {
    "1 null prompt under the prompt's mask": Way(null=True),
    "2 capitals kept": Way(letters=True),
    "3 flow shift 4 in place of 3": Way(shift=4.0),
    "4 double quotes in the instruction": Way(quotes=True),
    "5 eps of cross-attention's norms": Way(eps=True),
    "7 times not whole (dpm, a model of dense time)": Way(whole=False),
    "7 times whole (euler)": Way(whole=True, solver="euler"),
    "all but the shift": Way(null=True, letters=True, quotes=True, eps=True, whole=False),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    pipe = TextToImage.from_pretrained(asked.model, device="cpu")
    seeds = range(asked.seeds)

    def differences(way: Way, moved: int = 0) -> np.ndarray:
        usual = Way(solver=way.solver)
        pairs = [(text, seed) for text in PROMPTS for seed in seeds]
        return np.stack(
            [
                np.abs(levels(pipe, way, text, seed + moved) - levels(pipe, usual, text, seed))
                for text, seed in pairs
            ]
        )

    print(f"{asked.model}: {len(PROMPTS)} prompts, {len(seeds)} seeds\n")
    print("| difference | mean of 255 | largest |\n|---|---|---|")
    for name, way in WAYS.items():
        found = differences(way)
        print(f"| {name} | {found.mean():.3f} | {found.max()} |", flush=True)
    found = differences(Way(), moved=1000)
    print(f"| another seed | {found.mean():.3f} | {found.max()} |\n")
    other = [nearest_bin(1000, round(1000 / s), 2048) for s in SHAPES]
    native = [nearest_bin(1000, round(1000 / s), 2048, "native") for s in SHAPES]
    moved = sum(one != two for one, two in zip(other, native, strict=True))
    print(f"4 double quotes: features of an untrained language model change by {100 * quotes(pipe):.1f} %")
    print(f"6 bins at 2048 px: {100 * moved / len(SHAPES):.1f} % of the shapes from 1:4 to 4:1")


@torch.no_grad()
def levels(pipe: TextToImage, way: Way, prompt: str, seed: int) -> np.ndarray:
    """Return the image that is drawn in such a way, H W 3."""
    request = check_request(pipe.spec, prompt, seed=seed, solver=way.solver)
    shift = way.shift or pipe.settings.flow_shift
    sampler = make_sampler(way.solver, request.steps, shift, whole=way.whole)
    encoder = pipe.text_encoder
    window, _ = encoder.windows["native" if way.quotes else USUAL]
    window = replace(window, clean=script_prompt if way.letters else clean_prompt)
    text = encoder.encode_tokens(encoder.tokenize([prompt], window), window)[0][0]
    (null,) = encoder.encode_negative([""], dialect="native" if way.null else USUAL)
    features = [null[: len(text)], text] if request.guided else [text]
    with cross_norm_eps(1e-6 if way.eps else None):
        batch = Batch(
            pipe.transformer, begin(pipe.transformer, replace(request, solver=sampler), features, None)
        )
        while not batch.samples[0].state.done:
            batch.step()
    return to_levels(pipe.decode(batch.latents))[0].numpy().astype(int)


def quotes(pipe: TextToImage) -> float:
    """Return by how much the quotes in the instruction change text features of an untrained model."""
    torch.manual_seed(0)
    own = pipe.text_encoder
    model = Gemma2(replace(own.model.config, sliding_window=4096))  # as published; the embedded one sees less
    encoder = TextEncoder(model, own.tokenizer, COMPLEX_HUMAN_INSTRUCTION, own.max_tokens)
    prompts = [prompt.lower() for prompt in PROMPTS]
    both = zip(encoder.encode(prompts), encoder.encode(prompts, dialect="native"), strict=True)
    return float(np.mean([((one - two)[1:].norm() / one[1:].norm()).item() for one, two in both]))


@contextmanager
def cross_norm_eps(eps: float | None) -> Iterator[None]:
    """Norm queries and keys with eps in the usual dialect for a while; None: their own."""
    CROSS_NORM_EPS[USUAL] = eps
    yield
    CROSS_NORM_EPS[USUAL] = None


if __name__ == "__main__":
    main()
