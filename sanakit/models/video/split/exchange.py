"""Messages of processes that share a clip: sums over all, edges of neighbours, parts of a result.

`ProcessExchange` does so by torch.distributed, in the group that torchrun's processes have joined. All of
them make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from sanakit.errors import SettingsError


class Exchange(Protocol):
    """The other processes, as one of them sees them."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def world(self) -> int:
        """The number of processes."""
        ...

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of all processes' tensors of one shape, the same to the bit everywhere."""
        ...

    def swapped(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Send a tensor to each of some processes; return what they send, of the same shape, by rank."""
        ...

    def gathered(self, part: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the parts of all processes, by rank. shapes: of these, which may differ."""
        ...


class ProcessExchange:
    """The processes of torch.distributed's group. Raises SettingsError where none has been joined."""

    def __init__(self) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise SettingsError(
                "This process has joined no group: call torch.distributed.init_process_group() first, in "
                "processes that torchrun started."
            )
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def total(self, tensor: Tensor) -> Tensor:
        """As of `Exchange`."""
        sums = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(sums)
        return sums

    def swapped(self, sent: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """As of `Exchange`."""
        own = {peer: tensor.contiguous() for peer, tensor in sent.items()}
        came = {peer: torch.empty_like(tensor) for peer, tensor in own.items()}
        calls = [dist.P2POp(dist.isend, tensor, peer) for peer, tensor in own.items()]
        calls += [dist.P2POp(dist.irecv, tensor, peer) for peer, tensor in came.items()]
        for work in dist.batch_isend_irecv(calls) if calls else ():
            work.wait()
        return came

    def gathered(self, part: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """As of `Exchange`."""
        # collectives take tensors of one size: the smaller parts are filled up
        own = part.new_zeros(max(map(prod, shapes)))
        own[: part.numel()] = part.flatten()
        parts = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(parts, own)
        return [one[: prod(shape)].view(*shape) for one, shape in zip(parts, shapes, strict=True)]
