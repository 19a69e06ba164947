"""Plans of quantisation: a plan maps a layer's name to its quantised class, or None.

Names are those of `Sana` ("blocks.3.attn.qkv"), `ControlNet` ("controlnet.3.copied_block.attn.qkv") and
`Gemma2` ("layers.3.mlp.up_proj"). Alike in all plans:
layers outside the blocks stay unchanged (embedders of latents, time and prompt, the final layer, norms,
tables, the depthwise convolution, the embedding table). Those hold under 4 % of a transformer's weights, and
an error there reaches every token of every step undamped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sanakit.errors import SettingsError
from sanakit.quant.fp8 import Float8
from sanakit.quant.int4 import Int4
from sanakit.quant.int8 import Int8Linear
from sanakit.quant.int8_weight import Int8Weight
from sanakit.quant.layer import Quantized
from sanakit.quant.low_rank import LowRankInt4
from sanakit.quant.nf4 import NormalFloat4

# Layers that 4 bits hurt most for their size: keys and values of the text. A prompt has few tokens, every
# image token looks at the same ones, and in every step, so that their errors do not average out. Of pocket's
# weights they are 13 %, of the velocity's squared error with all products in 4 bits half (docs/quantize.md).
SENSITIVE = "cross_attn.kv_linear"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan of quantisation. name: as users write it. choose: maps a layer's name to its replacement.

    devices: device types on which its layers compute in few bits, or save memory at a bearable price.
    """

    name: str
    choose: Callable[[str], type[Quantized] | None]
    devices: tuple[str, ...]


def int8(name: str) -> type[Quantized] | None:
    """Every product of the blocks in 8 bits, tokens too: for CPUs.

    None needs to be left out: values that stand out in a token take 16 bits.
    """
    return Int8Linear if inside(name) else None


def int8_weight(name: str) -> type[Quantized] | None:
    """Every product of the blocks with weights in 8 bits; tokens stay as they are. Half the memory."""
    return Int8Weight if inside(name) else None


def fp8(name: str) -> type[Quantized] | None:
    """Every product of the blocks in 8-bit floats, on a GPU with units for them tokens too."""
    return Float8 if inside(name) else None


def int4(name: str) -> type[Quantized] | None:
    """Weights in 4 bits, but for the layers that this hurts most: those take 8."""
    return Int8Weight if name.endswith(SENSITIVE) else Int4 if inside(name) else None


def int4_svd(name: str) -> type[Quantized] | None:
    """As `int4`, and what 4 bits leave out is corrected by a matrix of low rank."""
    return Int8Weight if name.endswith(SENSITIVE) else LowRankInt4 if inside(name) else None


def nf4(name: str) -> type[Quantized] | None:
    """As `int4` in 4-bit NormalFloat, which bitsandbytes has kernels for."""
    return Int8Weight if name.endswith(SENSITIVE) else NormalFloat4 if inside(name) else None


def inside(name: str) -> bool:
    """Return whether a layer lies in a block of the transformer, in its copy, or in the text encoder."""
    return name.startswith(("blocks.", "layers.")) or ".copied_block." in name


PLANS = {
    plan.name: plan
    for plan in (
        Plan("int8", int8, ("cpu",)),
        Plan("int8-weight", int8_weight, ("cpu", "cuda", "mps")),
        Plan("fp8", fp8, ("cpu", "cuda")),
        Plan("int4", int4, ("cpu", "cuda", "mps")),
        Plan("int4-svd", int4_svd, ("cpu", "cuda", "mps")),
        Plan("nf4", nf4, ("cpu", "cuda", "mps")),
    )
}


def find_plan(name: str) -> Plan:
    """Return the plan of a name. Raises SettingsError."""
    if name not in PLANS:
        raise SettingsError(f"There is no quantisation plan {name!r}: use {', '.join(PLANS)}.")
    return PLANS[name]
