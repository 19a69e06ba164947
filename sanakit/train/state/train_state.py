"""All that a run is at a step, as named tensors and numbers, and back.

Names do not depend on how the model is spread: "model.NAME", "average.NAME" (of what is trained) and
"optimizer.NAME.ENTRY", where NAME is a parameter's. So a checkpoint resumes on another number of ranks, with
DDP or FSDP2 alike. Random numbers need no saving: every step draws its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sanakit.errors import WeightsError
from sanakit.train.distributed.parallel import whole
from sanakit.train.state.average import Average
from sanakit.train.state.checkpoint import Saved


class TrainState:
    """Weights, averages and optimiser states of a run, named; see the module's text."""

    def __init__(
        self, model: nn.Module, average: Average, optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.model, self.average, self.optimizers = model, average, optimizers
        self._names = {parameter: name for name, parameter in model.named_parameters()}

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, sharing memory with what is trained."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.trained().items()}
        return tensors | {
            name: value for name, _, _, value in self._entries() if isinstance(value, Tensor) and value.ndim
        }

    def numbers(self) -> dict[str, float]:
        """Optimiser entries that are single numbers: steps done, mostly."""
        return {
            name: whole(value).item() if isinstance(value, Tensor) else value
            for name, _, _, value in self._entries()
            if not (isinstance(value, Tensor) and value.ndim)
        }

    def restore(self, saved: Saved) -> None:
        """Put a checkpoint's content in its places; settings such as learning rates stay the run's own.

        Raises WeightsError when it is of another model or optimiser.
        """
        self._start_optimizers()
        stored = {*saved.tensors, *saved.numbers["optimizers"]}
        with_state = {name.rpartition(".")[0] for name in stored}
        for name, entries, _, _ in list(self._entries()):
            if name.rpartition(".")[0] not in with_state:
                entries.clear()  # a parameter that had no gradient yet
        tensors, numbers = self.tensors(), self.numbers()
        strange = stored ^ {*tensors, *numbers}
        if strange:
            which = min(strange)
            what = "optimiser" if which.startswith("optimizer.") else "model"
            raise WeightsError(
                f"{saved.path} is of another {what} ({which} is in only one of them): resume with the "
                "settings it was trained with, or start from scratch in another folder."
            )
        saved.read(tensors)
        for name, entries, entry, value in self._entries():
            if name in numbers:
                number = saved.numbers["optimizers"][name]
                if isinstance(value, Tensor):
                    value.fill_(number)
                else:
                    entries[entry] = number

    def _entries(self) -> Iterator[tuple[str, dict[str, Any], str, Any]]:
        """Every entry of an optimiser's state: its name, the dict it lies in, its key there, its value."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    entries = optimizer.state.get(parameter, {})
                    for entry, value in list(entries.items()):
                        yield f"optimizer.{self._names[parameter]}.{entry}", entries, entry, value

    def _start_optimizers(self) -> None:
        """Have every optimiser make its states, by a step without a gradient and at rate 0."""
        for optimizer in self.optimizers:
            rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = 0.0
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate


def check_numbers(numbers: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are an optimiser's entries as `TrainState.numbers` returns them."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is {value!r}")
