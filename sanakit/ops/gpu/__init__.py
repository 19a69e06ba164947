"""Kernels for GPUs in Triton, each with a plain twin in `ops/`: the same result in fewer passes over memory.

Values come in float32, bfloat16 or float16, arithmetic is float32, and a result is rounded once. Triton comes
with the builds of torch for GPUs; without it, and on every other device, the plain twins run. The functions
of `ops/` choose, and import a kernel when it is first needed.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from sanakit.ops.torch_private import transformed

TRITON = importlib.util.find_spec("triton") is not None
Launch = Callable[..., Tensor]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def kernels_run(x: Tensor, *others: Tensor | None) -> bool:
    """Return whether kernels support these tensors; if not, use the plain twin.

    They can if all lie on a GPU in a dtype that kernels take, none is empty, and no gradient is
    requested, forwards or backwards.
    """
    if not (x.is_cuda and TRITON and (torch.compiler.is_compiling() or launches())):
        return False
    if not torch.compiler.is_compiling() and transformed():
        return False
    values = [x, *(value for value in others if value is not None)]
    gradients = torch.is_grad_enabled() and any(value.requires_grad for value in values)
    return not gradients and all(v.is_cuda and v.dtype in _DTYPES and v.numel() for v in values)


@cache
def launches() -> bool:
    """Return whether Triton can launch a kernel; tested once by launching one. Warns if it cannot.

    It needs a C compiler and Python's headers, which not every machine with a GPU has.
    """
    try:
        from sanakit.ops.gpu.add_gated import add_gated_

        zero = torch.zeros(1, 1, 1, device="cuda", dtype=torch.float32)
        add_gated_(zero, zero.clone(), None)
    except Exception as error:  # whatever is wrong, there is another way
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"Triton launches no kernels here, plain operations run: {reason}", stacklevel=2)
        return False
    return True


def whole(
    schema: str, result: Callable[..., Tensor]
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Make a function that launches kernels one operation to torch.compile, which need not look inside.

    schema: its arguments and result in torch's notation. result: gives, for the same arguments, an empty
    tensor of the result's shape, dtype and strides. Outside of torch.compile the function is called as it is.
    """

    def decorate(launch: Launch) -> Launch:
        name = f"sanakit::{launch.__name__}"
        operation = torch.library.custom_op(name, launch, mutates_args=(), schema=schema)
        operation.register_fake(result)

        def call(*values: Tensor | int | None) -> Tensor:
            return operation(*values) if torch.compiler.is_compiling() else launch(*values)

        return call

    return decorate
