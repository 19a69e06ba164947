"""The loop's interface to a training objective: data, a loss, figures and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn

from sanakit.train.parts import Part


class Objective(Protocol):
    """A training objective, as the loop sees it."""

    model: nn.Module  # all that is trained, on its device

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Get ready: `batch` will be asked for these parts of step `first` and of each later one, in turn."""
        ...

    def batch(self, step: int, part: Part) -> Any:
        """Return data of a part of a step's global batch, on the device; what learns is not used here.

        Random numbers come from generators of `train/parts.py`, seeded by the step and by the sample's place
        in the global batch: it does not depend on how that is cut into parts.
        """
        ...

    def loss(self, batch: Any) -> Tensor:
        """Return a part's contribution to the mean over the global batch; contributions of all parts add up.

        Every trained parameter takes part in it (DDP waits for the gradients of all), if only times zero.
        Called under autocast when the config says bf16. Only in here are parameters whole under FSDP2.
        """
        ...

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure the averaged weights, a frozen copy of `model`; on rank 0 alone."""
        ...

    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw what the averaged weights can do, to be looked at; on rank 0 alone."""
        ...


@runtime_checkable
class Counted(Protocol):
    """An objective that knows its arithmetic, so that its share of the device's rate can be told."""

    def flops(self, batch: Any) -> int:
        """Return the floating-point operations of a batch's loss and its gradients."""
        ...


@runtime_checkable
class Filled(Protocol):
    """An objective whose batches may have places without a sample: empty ones, and images that are broken.

    Such a place counts nothing, and all samples count the same, so the loss of a batch with few samples is
    small. The loop reports the mean over the samples, and leaves a step out that has none.
    """

    def filled(self, batch: Any) -> Tensor:
        """Return the share of the global batch that a part's samples are: a number, 1 for a full batch."""
        ...


@runtime_checkable
class Alternating(Protocol):
    """An objective whose parts learn in turns, each by its own steps, as a student and what judges it.

    `model` is a ModuleDict. A step updates one of its parts; the others, and their optimisers, stay as they
    are. Each part has its own usual losses and gradients, which the guard compares with.
    """

    def learning(self, step: int) -> str:
        """Return the name of the part that learns in a step. The log's loss is that of step 0's part."""
        ...

    def steady(self, part: str) -> bool:
        """Return whether a part's learning rate stays the same: no warm-up, no fall at the end."""
        ...


@runtime_checkable
class Telling(Protocol):
    """An objective with figures of its steps besides their losses, such as the rewards of what was drawn."""

    def figures(self) -> dict[str, float]:
        """Return the figures of the steps since the last call, for a line of the log; every rank asks."""
        ...


@runtime_checkable
class Ending(Protocol):
    """An objective that may end its training early, by what it measured."""

    def ended(self) -> str:
        """Return why the training ends, a sentence; "" while it goes on.

        Asked after each evaluation, where rank 0's answer counts, and before a resumed run goes on: what the
        answer depends on belongs to `model`.
        """
        ...


@runtime_checkable
class Beside(Protocol):
    """An objective that trains parts beside a frozen model, through whose blocks the gradients pass."""

    base: nn.Module  # the frozen model
