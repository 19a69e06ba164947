"""Arithmetic on parameters that FSDP2 has cut into shards, for optimisers of whole rows and columns.

FSDP2 keeps a parameter as a DTensor cut along its first axis. An optimiser works on its own rows
(`own_rows`), sums over ranks what concerns all rows (`add_over_shards`) and keeps its states as DTensors
(`keep_rows`, `keep_whole`). torch.distributed.checkpoint then stores them whole and reads them on another
number of ranks. A parameter that is not sharded passes through all of these unchanged.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from sanakit.errors import SettingsError


def check_sharding(parameter: Tensor) -> None:
    """Raise SettingsError when a parameter is sharded along another axis than its first."""
    if not isinstance(parameter, DTensor):
        return
    if not all(type(placement) is Replicate or placement == Shard(0) for placement in parameter.placements):
        raise SettingsError(
            f"A parameter of shape {tuple(parameter.shape)} is placed as {parameter.placements}; this "
            "optimiser supports whole parameters and FSDP2 shards along the first axis: train with "
            "AdamW, or without tensor parallelism."
        )


def is_sharded(parameter: Tensor) -> bool:
    """Return whether this rank may hold only some rows of the parameter."""
    return isinstance(parameter, DTensor)


def own_rows(tensor: Tensor) -> Tensor:
    """Return the rows that this rank holds, sharing their memory. Call it without gradients."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def add_over_shards(part: Tensor, parameter: Tensor) -> Tensor:
    """Sum `part`, in place, over the ranks that hold the other rows of the parameter, and return it."""
    if isinstance(parameter, DTensor):
        for axis, placement in enumerate(parameter.placements):
            if isinstance(placement, Shard):
                dist.all_reduce(part, group=parameter.device_mesh.get_group(axis))
    return part


def keep_rows(rows: Tensor, parameter: Tensor) -> Tensor:
    """Return a state with a row per row of this rank's part of the parameter, placed like it."""
    if not isinstance(parameter, DTensor):
        return rows
    whole = torch.empty((parameter.shape[0], *rows.shape[1:]), device="meta", dtype=torch.float32)
    return DTensor.from_local(
        rows,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def keep_whole(values: Tensor, parameter: Tensor) -> Tensor:
    """Return a state that is the same on all ranks of the parameter."""
    if not isinstance(parameter, DTensor):
        return values
    mesh = parameter.device_mesh
    return DTensor.from_local(values, mesh, [Replicate()] * mesh.ndim, run_check=False)


def gather_rows(rows: Tensor, parameter: Tensor) -> Tensor:
    """Return all rows, from what each rank has computed for its own rows of the parameter."""
    kept = keep_rows(rows, parameter)
    return kept.full_tensor() if isinstance(kept, DTensor) else kept


def cut_rows(values: Tensor, parameter: Tensor) -> Tensor:
    """Of values for the whole parameter, which all ranks have, the rows that belong to this rank."""
    kept = keep_whole(values, parameter)
    if not isinstance(kept, DTensor) or not isinstance(parameter, DTensor):
        return values
    return kept.redistribute(placements=parameter.placements).to_local()
