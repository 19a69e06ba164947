"""Writes the table of sizes in docs/quantize.md: what the weights of each plan take, by arithmetic.

    python docs/plan_sizes.py

Nothing is loaded: models are built without memory, and the bytes counted of what a plan puts in the place of
their layers. What a plan leaves alone counts with 2 bytes a value, as published
(the autoencoder too, which a GPU holds in bfloat16). A test compares the page with what this gives.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn

from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DCAE
from sanakit.models.gemma2 import GEMMA2_2B, Gemma2
from sanakit.models.layers import Linear
from sanakit.models.sana import SANA_1_5_4800M, SANA_600M, SANA_1600M, Sana
from sanakit.quant.layer import Quantized
from sanakit.quant.plans import PLANS, Plan
from sanakit.quant.quantize import chosen

PAGE = Path(__file__).with_name("quantize.md")
BEGIN, END = "<!-- sizes: begin -->\n", "<!-- sizes: end -->\n"
TRANSFORMERS = {"0.6B": SANA_600M, "1.6B": SANA_1600M, "4.8B": SANA_1_5_4800M}
BYTES = 2  # of a value that a plan leaves alone


def stored_bytes(module: nn.Module, plan: Plan | None = None) -> int:
    """Count the bytes of a model's weights by a plan; None: as published.

    module: may lie on the meta device; it is not changed.
    """
    size = BYTES * sum(parameter.numel() for parameter in module.parameters())
    if plan is not None:
        for _, layer, kind in chosen(module, plan):
            inputs, outputs = layer.in_features, layer.out_features
            size += layer_bytes(kind, inputs, outputs) - BYTES * inputs * outputs
    return size


@cache
def layer_bytes(kind: type[Quantized], inputs: int, outputs: int) -> int:
    """Count the bytes of a quantised layer but for its bias, which stays what it is."""
    layer = kind.empty(Linear(inputs, outputs, bias=False, device="meta"))
    return sum(buffer.nbytes for buffer in layer.buffers())


def gigabytes(size: int) -> str:
    """Bytes as a figure of the table: 10^9 of them, to two places."""
    return f"{size / 1e9:.2f}"


def table() -> str:
    """One row a plan: each transformer, the text encoder, and these two with the decoder."""
    with torch.device("meta"):
        transformers = [Sana(config) for config in TRANSFORMERS.values()]
        text_encoder = Gemma2(GEMMA2_2B)
        decoder = stored_bytes(DCAE(DC_AE_F32C32_SANA, "decoder"))
    columns = [f"transformer {name}" for name in TRANSFORMERS] + ["text encoder"]
    columns += [f"all of {name}" for name in TRANSFORMERS]
    rows = [f"| GB of weights | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for plan in (None, *PLANS.values()):
        sizes = [stored_bytes(transformer, plan) for transformer in transformers]
        text = stored_bytes(text_encoder, plan)
        figures = [*sizes, text, *(size + text + decoder for size in sizes)]
        name = "as published" if plan is None else f"`{plan.name}`"
        rows.append(f"| {name} | {' | '.join(map(gigabytes, figures))} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole page with the table again."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
