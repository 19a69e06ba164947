"""The compiled CPU kernels: the choice of the built library for this machine, and when it is used.

`native/*.cpp` is compiled once per instruction set when the package is installed, into libraries beside the
sources. They do not use Python or torch, only addresses and sizes. The best one that the CPU runs is loaded
at the first use. Without a compiler there is none, and every operation runs as its plain torch twin: the same
results to rounding, slower.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sanakit.ops.torch_private import runs_vnni, transformed

FOLDER = Path(__file__).parent / "native"
# "none", or a level that the CPU runs, chooses by hand: to compare, to find a fault.
VARIABLE = "SANAKIT_KERNELS"
# torch's word for what the CPU can do: our levels that it runs, best first.
LEVELS = {"AVX512": ("avx512", "avx2", "generic"), "AVX2": ("avx2", "generic")}
VNNI = "vnni"  # avx512 and sums of products of bytes in one instruction, which torch tells apart
STORED = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # weights as the kernels read them
SMALL = 4_000_000  # floating-point operations that one thread does sooner than two have begun

_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "i": ctypes.c_int, "f": ctypes.c_float}
_SIGNATURES = {  # a letter of _TYPES for each argument
    "sana_linear": "pllpilppi",
    "sana_conv3x3": "plllliiipilpipi",
    "sana_conv3x3x3": "pllllliipilppi",
    "sana_gated_depthwise": "plllliipppi",
    "sana_attention": "plllplllpllllllllfpi",
    "sana_attention_sums": "plllpllllllpi",
    "sana_attend": "plllplllfpi",
    "sana_linear_int8": "pllppfpplpfpipi",
    "sana_gated_delta": "pllllpllllpllllpppplllllllppi",
    "sana_norm_silu": "pllppi",
    "sana_rms_norm_add": "pllpppfpi",
}


def declare(library: ctypes.CDLL) -> None:
    """Tell the types of the kernels' arguments."""
    for name, letters in _SIGNATURES.items():
        getattr(library, name).argtypes = [_TYPES[letter] for letter in letters]


def levels() -> tuple[str, ...]:
    """Return the instruction sets that this CPU runs, best first."""
    found = LEVELS.get(torch.backends.cpu.get_cpu_capability(), ("generic",))
    return (VNNI, *found) if found[0] == "avx512" and runs_vnni() else found


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """Return the library and its instruction set, or None and the reason why there is none."""
    asked = os.environ.get(VARIABLE, "")
    if asked == "none":
        return None, f"none: {VARIABLE}=none"
    if asked and asked not in levels():
        return None, f"none: {VARIABLE}={asked}, but this CPU runs {', '.join(levels())}"
    for level in (asked,) if asked else levels():
        path = FOLDER / f"kernels-{level}.so"
        if not path.is_file():
            continue
        try:
            library = ctypes.CDLL(str(path))
            declare(library)
        except (OSError, AttributeError) as error:  # built for another system, or from other sources
            return None, f"none: {path.name} cannot be loaded ({error})"
        return library, level
    return None, "none: not built; install a C++ compiler, then sanakit again"


def info() -> dict[str, str]:
    """Tell which kernels run: `library` is "vnni", "avx512", "avx2", "generic", or "none: ", and why."""
    return {"library": _load()[1]}


def kernels(*values: Tensor | None, weight: Tensor | None = None) -> ctypes.CDLL | None:
    """Return the library if it supports these tensors, else None: then use the plain twin.

    It can if the values are float32 on the CPU, the weight is of a stored type, none of them is empty, and no
    gradient is requested, forwards or backwards. That their shapes fit together is the caller's to see: a
    kernel believes it.
    """
    if torch.compiler.is_compiling() or transformed():
        return None
    gradients = torch.is_grad_enabled()
    for tensor in (*values, weight):
        if tensor is None:
            continue
        plain = type(tensor) is Tensor or type(tensor) is torch.nn.Parameter
        if not plain or tensor.device.type != "cpu" or (gradients and tensor.requires_grad):
            return None
        if not tensor.numel():
            return None
        if tensor.dtype != torch.float32 and (tensor is not weight or tensor.dtype not in STORED):
            return None
    return _load()[0]


def threads(work: int) -> int:
    """Return the number of threads for so many floating-point operations."""
    return 1 if work < SMALL else torch.get_num_threads()


def fits(tensor: Tensor | None, *shape: int) -> bool:
    """Return whether a bias or gain has this shape and is contiguous, as kernels need. None does, too."""
    return tensor is None or (tensor.shape == shape and tensor.is_contiguous())


def address(tensor: Tensor | None) -> int | None:
    """Return the address of a contiguous tensor's first value, None for None."""
    return None if tensor is None else tensor.data_ptr()


def check(status: int) -> None:
    """Raise MemoryError if a kernel says that it got no memory to work in."""
    if status:
        raise MemoryError("can't allocate memory for a kernel's scratch")
