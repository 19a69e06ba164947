"""A full-size model of random numbers, as the diffusers folder that both sides of a benchmark load.

    python benchmarks/random_weights.py FOLDER [--model 0.6b] [--text-layers 26]

Time and memory depend on shapes, not on what was learned. Transformer (592M parameters, in the default of
SANA 0.6B) and DC-AE have their real sizes; so has Gemma 2, but for its number of layers, since 26 of them
take 5.2 GB here and 10.4 GB in float32. Weights are stored in bfloat16, as the published ones are, and drawn
with variance 1 / fan-in around norms of gain 1, so that values stay near 1 through all layers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DCAE
from sanakit.models.gemma2 import GEMMA2_2B, Gemma2
from sanakit.models.sana import (
    SANA_600M,
    SANA_1600M,
    SANA_1600M_2K,
    SANA_1600M_4K,
    SANA_SPRINT_600M,
    SANA_SPRINT_1600M,
    Sana,
)
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers

MODELS = {
    "0.6b": SANA_600M,
    "1.6b": SANA_1600M,
    "1.6b-2k": SANA_1600M_2K,
    "1.6b-4k": SANA_1600M_4K,
    "sprint-0.6b": SANA_SPRINT_600M,
    "sprint-1.6b": SANA_SPRINT_1600M,
}
TEXT_LAYERS = GEMMA2_2B.depth  # 26
# Every word is a token of its own in the vocabulary below: 20 tokens.
PROMPT = (
    "a small fluffy white cat sleeping on a sunny windowsill surrounded by pots of blooming red flowers "
    "at early dusk"
)
VOCABULARY = 2048  # of the tokenizer; the embedding keeps its 256,000 rows
BIAS = 0.02  # standard deviation

Module = TypeVar("Module", bound=nn.Module)


def random_folder(
    folder: str | Path | None = None, *, model: str = "0.6b", text_layers: int = 4, depth: int | None = None
) -> Path:
    """Return a folder with random weights, and make it if it is not there; the seed is fixed.

    folder: None takes a place in the system's temporary directory that later runs find again.
    model: one of MODELS. text_layers: of Gemma 2, 1 to 26; each takes 0.16 GB. depth: of the transformer;
    None: the real one.
    """
    config = MODELS[model]
    shallow = "" if depth in (None, config.depth) else f"-depth-{depth}"
    name = f"sana-{model}-random-{text_layers}-text-layers{shallow}"
    path = Path(folder) if folder else Path(tempfile.gettempdir()) / "sanakit-benchmarks" / name
    if (path / "model_index.json").exists():
        return path
    torch.manual_seed(0)
    tokenizer = train_tokenizer([COMPLEX_HUMAN_INSTRUCTION, PROMPT] * 8, VOCABULARY)
    gemma = replace(GEMMA2_2B, depth=text_layers, sliding_layers=())
    text_encoder = TextEncoder(_drawn(lambda: Gemma2(gemma)), tokenizer)
    side = 32 * config.sample_size
    usual = {"steps": 2, "solver": "scm"} if config.guidance_embed else {"steps": 20, "solver": "dpm"}
    return save_diffusers(
        path,
        transformer=_drawn(lambda: Sana(replace(config, depth=depth or config.depth))),
        autoencoder=_drawn(lambda: DCAE(DC_AE_F32C32_SANA)),
        text_encoder=text_encoder,
        flow_shift=6.0 if side == 4096 else 3.0,
        defaults={"guidance": 4.5, "width": side, "height": side, **usual},
        dtype="bfloat16",
        precision="bfloat16",
        name=path.name,
    )


def _drawn(build: Callable[[], Module]) -> Module:
    """Build a module without memory and draw its weights in bfloat16: float32 would need twice the room."""
    with torch.device("meta"):
        module = build()
    module = module.to(torch.bfloat16).to_empty(device="cpu")
    with torch.no_grad():
        for name, weight in module.named_parameters():
            owner = module.get_submodule(name.rpartition(".")[0]) if "." in name else module
            if weight.ndim > 1:
                fan_in = weight[0].numel()
                if isinstance(owner, nn.Embedding) or name.endswith("scale_shift_table"):
                    fan_in = weight.shape[-1]  # Gemma multiplies its embedding by sqrt(width)
                weight.normal_(std=fan_in**-0.5)
            elif name.endswith("bias") or isinstance(module, Gemma2):  # Gemma's gains are 1 + weight
                weight.normal_(std=BIAS)
            else:
                weight.normal_(mean=1.0, std=BIAS)
    return module.eval()


def main() -> None:
    """Make the folder that was asked for and tell its size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--text-layers", type=int, default=TEXT_LAYERS, choices=range(1, TEXT_LAYERS + 1))
    parser.add_argument("--model", default="0.6b", choices=MODELS)
    parser.add_argument("--depth", type=int, help="of the transformer; default: the real one")
    asked = parser.parse_args()
    started = time.perf_counter()
    path = random_folder(asked.folder, model=asked.model, text_layers=asked.text_layers, depth=asked.depth)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{path}  {size / 1e9:.2f} GB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
