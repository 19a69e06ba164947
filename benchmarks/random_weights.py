"""A full-size SANA 0.6B model of random numbers, as the diffusers folder that both sides of a benchmark load.

    python benchmarks/random_weights.py FOLDER [--text-layers 26]

Time and memory depend on shapes, not on what was learned. Transformer (592M parameters) and DC-AE have their
real sizes; so has Gemma 2, but for its number of layers, since 26 of them take 5.2 GB here and 10.4 GB in
float32. Weights are stored in bfloat16, as the published ones are, and drawn with variance 1 / fan-in around
norms of gain 1, so that values stay near 1 through all layers.
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
from sanakit.models.sana import SANA_600M, Sana
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers

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
    folder: str | Path | None = None, *, text_layers: int = 4, depth: int = SANA_600M.depth
) -> Path:
    """Give a folder with random weights, and make it if it is not there; the seed is fixed.

    folder: None takes a place in the system's temporary directory that later runs find again.
    text_layers: of Gemma 2, 1 to 26; each takes 0.16 GB. depth: of the transformer, 28 for the real one.
    """
    name = f"sana-0.6b-random-{text_layers}-text-layers" + (
        "" if depth == SANA_600M.depth else f"-depth-{depth}"
    )
    path = Path(folder) if folder else Path(tempfile.gettempdir()) / "sanakit-benchmarks" / name
    if (path / "model_index.json").exists():
        return path
    torch.manual_seed(0)
    tokenizer = train_tokenizer([COMPLEX_HUMAN_INSTRUCTION, PROMPT] * 8, VOCABULARY)
    gemma = replace(GEMMA2_2B, depth=text_layers, sliding_layers=())
    text_encoder = TextEncoder(_drawn(lambda: Gemma2(gemma)), tokenizer)
    return save_diffusers(
        path,
        transformer=_drawn(lambda: Sana(replace(SANA_600M, depth=depth))),
        autoencoder=_drawn(lambda: DCAE(DC_AE_F32C32_SANA)),
        text_encoder=text_encoder,
        flow_shift=3.0,
        defaults={"steps": 20, "guidance": 4.5, "width": 512, "height": 512, "solver": "dpm"},
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
    parser.add_argument("--depth", type=int, default=SANA_600M.depth, choices=range(1, SANA_600M.depth + 1))
    asked = parser.parse_args()
    started = time.perf_counter()
    path = random_folder(asked.folder, text_layers=asked.text_layers, depth=asked.depth)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{path}  {size / 1e9:.2f} GB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
