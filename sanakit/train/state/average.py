"""The moving average of the weights, which is measured, drawn with and kept as the result.

Each rank averages what it holds of every parameter; only to measure are they put together.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sanakit.ops.torch_private import lerp_all
from sanakit.train.distributed.parallel import own, whole


class Average:
    """Moving average of a model's trained parameters; frozen ones and buffers are the model's own.

    Make it before the model is spread over ranks, and call `start` afterwards.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._skeleton = _with_parameters(model, ((p, p.to("meta")) for p in model.parameters())).eval()
        self.tensors: dict[str, Tensor] = {}  # sharded like the model's parameters
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])

    def start(self) -> None:
        """Begin with the present weights."""
        parameters = dict(self._model.named_parameters())
        self.tensors = {
            name: p.detach().clone() if p.requires_grad else p.detach() for name, p in parameters.items()
        }
        trained = [name for name, p in parameters.items() if p.requires_grad]
        self._pairs = (
            [own(self.tensors[name]) for name in trained],
            [own(parameters[name].detach()) for name in trained],
        )

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move towards the present weights: average = decay * average + (1 - decay) * weights."""
        averaged, trained = self._pairs
        lerp_all(averaged, trained, 1 - decay)

    def trained(self) -> dict[str, Tensor]:
        """Return the averages of the trained parameters by name, sharing memory."""
        frozen = {name for name, parameter in self._model.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.tensors.items() if name not in frozen}

    def module(self) -> nn.Module:
        """Return a model with the averaged weights, whole and frozen; every rank has to ask for it.

        It shares their memory where nothing is sharded: measure with it, do not change it.
        """
        skeletons = dict(self._skeleton.named_parameters())
        module = _with_parameters(
            self._skeleton, ((skeletons[name], whole(tensor)) for name, tensor in self.tensors.items())
        )
        buffers = dict(module.named_buffers())
        for name, buffer in self._model.named_buffers():
            buffers[name].copy_(buffer)
        return module


def _with_parameters(model: nn.Module, pairs: Iterable[tuple[nn.Parameter, Tensor]]) -> nn.Module:
    """Return a copy of a model in which other (frozen) tensors take the places of its parameters."""
    memo: dict[int, object] = {id(old): nn.Parameter(new, requires_grad=False) for old, new in pairs}
    return copy.deepcopy(model, memo)


def part_of(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return one part of a run's weights under its own names; {} where the run has no such part."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
