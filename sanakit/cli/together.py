"""A command on several processes that torchrun started, which work on one thing together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from sanakit.errors import SettingsError

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Together:
    """This process among those of the command. rank: 0 reads what is typed, prints and writes."""

    rank: int = 0
    world: int = 1

    @property
    def chief(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def of_chief(self, choose: Callable[[], Value]) -> Value:
        """Return what the first process chooses, in all of them. The value goes through pickle."""
        if self.world == 1:
            return choose()
        import torch.distributed as dist

        values = [choose() if self.chief else None]
        dist.broadcast_object_list(values, 0)
        return values[0]  # pyright: ignore[reportReturnType]

    def device(self, device: str) -> str:
        """Return the device of this process: with "auto" on GPUs, the one of its number on this machine."""
        if self.world == 1 or device != "auto":
            return device
        from sanakit.train.distributed.parallel import training_device

        return str(training_device())


def check_alone(what: str) -> None:
    """Raise SettingsError where torchrun started several processes. what: the command or option."""
    if _started() > 1:
        raise SettingsError(f"{what} is for one process: start it without torchrun.")


@contextmanager
def together(work: str) -> Iterator[Together]:
    """Join the processes that torchrun started, for the length of a `with`; alone, nothing is imported.

    work: what they do, for the sentence with which all end when one fails, as `processes` does.
    """
    if _started() == 1:
        yield Together()
        return
    from sanakit.train.distributed.parallel import processes

    with processes(work) as share:
        yield Together(share.rank, share.world)


def _started() -> int:
    """Return how many processes torchrun started. It sets RANK, too; clusters may set WORLD_SIZE alone."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1
