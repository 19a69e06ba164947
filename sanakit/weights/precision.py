"""Choose the compute dtype: the model's rule, the device's abilities, the caller's wish.

The published models come in two families. Those trained in float16 give broken images in bfloat16 (their
weights need the longer mantissa), those trained in bfloat16 overflow in float16; float32 is right for all. A
CPU without bfloat16 arithmetic runs a bfloat16 matrix product 4.5 times slower than float32, and float16 is
not faster: there everything computes in float32, whatever is stored.
"""

from __future__ import annotations

import torch

from sanakit.errors import PrecisionError
from sanakit.ops.torch_private import multiplies_bfloat16

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}
RULES = ("any", "float32", "float16", "bfloat16")


def dtype_name(dtype: torch.dtype) -> str:
    """Spell a dtype as the messages and files do: "float16"."""
    return str(dtype).removeprefix("torch.")


def parse_dtype(name: str | torch.dtype) -> torch.dtype:
    """Return the dtype called `name` (float32, float16, bfloat16 or fp32, fp16, bf16). Raises
    PrecisionError."""
    if isinstance(name, str) and name.lower() in DTYPES:
        return DTYPES[name.lower()]
    if isinstance(name, torch.dtype) and name in DTYPES.values():
        return name
    raise PrecisionError(f"{name} is not a supported dtype: use auto, float32, float16 or bfloat16.")


def check_rule(dtype: torch.dtype, rule: str, what: str = "This model") -> None:
    """Raise PrecisionError when `dtype` contradicts the model's rule (one of RULES): float32 always fits."""
    if dtype == torch.float32 or rule in ("any", dtype_name(dtype)):
        return
    remedy = "float32" if rule == "float32" else f"{rule} or float32"
    raise PrecisionError(
        f"{what} gives wrong images in {dtype_name(dtype)}: it was trained for {rule}. Use {remedy}, or "
        "leave dtype at auto."
    )


def choose_dtype(
    device: str | torch.device,
    stored_dtype: str | torch.dtype,
    asked: str | torch.dtype = "auto",
    *,
    rule: str = "any",
    what: str = "This model",
) -> torch.dtype:
    """Choose the dtype to compute in.

    device: where it will run. stored_dtype: of the weight files. asked: "auto" or a dtype. rule: the one
    16-bit dtype that the model allows, "float32" for none, or "any".
    auto: float32 on a CPU; elsewhere the rule's dtype, or the stored one, if the device can compute in it.
    Raises PrecisionError when the requested dtype contradicts the rule or the device lacks it.
    """
    device = torch.device(device)
    if asked != "auto":
        dtype = parse_dtype(asked)
        check_rule(dtype, rule, what)
        if not computes(device, dtype):
            raise PrecisionError(
                f"The device {device} has no {dtype_name(dtype)} arithmetic (it would be emulated, several "
                "times slower than float32): use float32, or leave dtype at auto."
            )
        return dtype
    stored = (
        parse_dtype(stored_dtype) if str(stored_dtype).removeprefix("torch.") in DTYPES else torch.float32
    )
    if device.type == "cpu" or stored == torch.float32:
        return torch.float32
    dtype = stored if rule == "any" else DTYPES[rule]
    return dtype if computes(device, dtype) else torch.float32


def computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the device computes natively in `dtype`; emulated, it is much slower than float32."""
    if dtype == torch.float32:
        return True
    if device.type == "cpu":
        return dtype == torch.bfloat16 and multiplies_bfloat16()
    if device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True
