"""All uses of torch's undocumented parts, so that a new release can break only this file.

Each function says what stands in for it in public torch, or that nothing does.
`tests/ops/test_torch_private.py` calls each of them; `tests/contract/test_private.py` keeps private names out
of all other files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import Store

Tensors = tuple[Tensor, ...] | list[Tensor]


def runs_vnni() -> bool:
    """Return whether this CPU sums products of bytes in one instruction. torch has no public equivalent."""
    return torch.cpu._is_vnni_supported()


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 arithmetic (AVX-512 or AMX). torch has no public equivalent."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def transformed() -> bool:
    """Return whether torch differentiates forwards or by `torch.func` here: values are then no plain memory.

    No public twin.
    """
    from torch.autograd import forward_ad

    levels = torch._C._functorch.peek_interpreter_stack()  # pyright: ignore[reportAttributeAccessIssue]
    return levels is not None or forward_ad._current_level >= 0


def copy_all(targets: Tensors, sources: Tensors) -> None:
    """Copy each source to its target in as few launches as possible. Public twin: a loop of `copy_`."""
    torch._foreach_copy_(targets, sources)


def lerp_all(targets: Tensors, sources: Tensors, weight: float) -> None:
    """Move each target to its source by a share in few launches. Public twin: a loop of `lerp_`."""
    torch._foreach_lerp_(targets, sources, weight)


def scaled_product(
    x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Multiply M K by N K, both in float8, and return M N in bfloat16, summed in float32.

    x_scale: M 1. weight_scale: N. bias: N in bfloat16. Public twin: `torch.nn.functional.scaled_mm`, which
    only recent releases have.
    """
    return torch._scaled_mm(
        x,
        weight.t(),
        scale_a=x_scale,
        scale_b=weight_scale[None],
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def writes_to(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; 0 for inference tensors, which do not count.

    A write through `tensor.data` escapes the count. No public twin.
    """
    return 0 if tensor.is_inference() else tensor._version


def process_store() -> Store:
    """Return the store through which the processes of a training met. No public twin."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def compile_at_least(shapes: int, modules: int) -> None:
    """Let torch.compile compile so many shapes of each of so many modules that share their code.

    Beyond eight shapes it otherwise runs the code as written, with one line of warning. Limits that are
    higher already stay. Public twin: the same settings under `torch.compiler.config`, in recent releases.
    """
    import torch._dynamo.config as config

    config.recompile_limit = max(config.recompile_limit, shapes)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, shapes * modules)
