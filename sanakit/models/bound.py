"""A model bound to something that all its velocities see, such as a given frame or a camera path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from sanakit.models.contracts import SampledBlock, TransformerConfig, VelocityModel
from sanakit.models.sana import TextContext

Base = TypeVar("Base", bound=VelocityModel)


class BoundModel(nn.Module, Generic[Base]):
    """All of a `VelocityModel` but its velocity, as the base has it. base: stays as it is."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base: Base = base

    @property
    def config(self) -> TransformerConfig:
        """The sizes of the base."""
        return self.base.config

    @property
    def blocks(self) -> Iterable[SampledBlock]:
        """The blocks of the base."""
        return self.base.blocks

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        return self.base.dtype

    def prepare(
        self, features: Sequence[Tensor], counts: Sequence[int] | None = None, eps: float | None = None
    ) -> TextContext:
        """Return the base's context; all as for its `prepare`."""
        return self.base.prepare(features, counts, eps)
