"""An adapter as tensors: which rows of which products it changes, and by what.

`read.py` makes one of a file, `attach.py` puts it on a transformer, `save.py` writes it.
Shapes: K in, r rank, n rows of a product's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sanakit.adapters.names import Place


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AdapterPart:
    """A change of low rank to one run of rows: scale * up @ down. magnitude: of DoRA, else None."""

    place: Place
    down: Tensor  # r K
    up: Tensor  # n r
    alpha: float  # the scale is alpha / r, or alpha / sqrt(r) where it is rank-stabilised
    stabilised: bool = False
    magnitude: Tensor | None = None  # n

    @property
    def rank(self) -> int:
        """The rank r."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """The factor on up @ down."""
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)

    def cut(self, rows: slice) -> AdapterPart:
        """Return the same change of some of its n rows alone: the same down, its own rows of up."""
        start, stop, _ = rows.indices(len(self.up))
        place = replace(self.place, start=self.place.start + start, stop=self.place.start + stop)
        magnitude = None if self.magnitude is None else self.magnitude[rows]
        return replace(self, place=place, up=self.up[rows], magnitude=magnitude)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Adapter:
    """A LoRA. file: the name of its file. fingerprint: of its tensors and settings, 64 hexadecimal digits."""

    parts: tuple[AdapterPart, ...]
    file: str = ""
    fingerprint: str = ""
    notes: tuple[str, ...] = ()  # what the user should know about how it is taken

    @property
    def bytes(self) -> int:
        """The bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        for part in self.parts:
            yield from (part.down, part.up, *([] if part.magnitude is None else [part.magnitude]))

    def to(self, dtype: torch.dtype) -> Adapter:
        """Return it in another dtype, in copies: float32 to be trained."""
        parts = tuple(
            replace(
                part,
                down=part.down.to(dtype, copy=True),
                up=part.up.to(dtype, copy=True),
                magnitude=None if part.magnitude is None else part.magnitude.to(dtype, copy=True),
            )
            for part in self.parts
        )
        return replace(self, parts=parts)
