"""The shapes of a transformer's tensors: what a file without a configuration tells of its size."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from sanakit.errors import WeightsError
from sanakit.weights.read.header import TensorInfo


class Shapes:
    """Shapes by official names.

    infos: of the file. model, where: what it should be and its path, for messages. stored: the name in the
    file of an official one; None: the same.
    """

    def __init__(
        self,
        infos: Mapping[str, TensorInfo],
        model: str,
        where: str,
        stored: Callable[[str], str] | None = None,
    ) -> None:
        self._infos, self._model, self._where, self._stored = infos, model, where, stored

    def need(self, name: str, axes: int) -> tuple[int, ...]:
        """Return a tensor's shape. Raises WeightsError where it is missing or has not so many axes."""
        info = self._infos.get(self._stored(name) if self._stored else name)
        if info is None or len(info.shape) != axes:
            raise WeightsError(
                f"{self._where} is not a {self._model} transformer: {name} is "
                f"{info.shape if info else 'missing'}."
            )
        return info.shape

    def blocks(self, tensor: str) -> set[int]:
        """Return the numbers of the blocks that have a tensor of this name, behind `blocks.N.`."""
        each = (re.fullmatch(rf"blocks\.(\d+)\.{re.escape(tensor)}", name) for name in self._infos)
        return {int(found[1]) for found in each if found}
