"""The three policies of a reinforcement: one learns, an old one draws, the reference is what both began as.

All weights may learn, or an adapter beside a frozen model, whose three policies share every other tensor.
The old policy follows the learning one after each update, old <- d old + (1 - d) learning. It belongs to what
a run's checkpoint holds: a resumed run draws what an uninterrupted one would.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
from torch import nn

from sanakit.adapters.adapter import Adapter
from sanakit.adapters.attach import AdapterSet
from sanakit.models.sana import Sana
from sanakit.quant.plans import Plan
from sanakit.quant.quantize import quantize
from sanakit.train.objectives.adapter import ADAPTER, named_parts, with_matrices
from sanakit.train.objectives.velocity import TRANSFORMER

OLD = "old"  # its part of a run's checkpoint


@dataclass(frozen=True, slots=True, eq=False)
class Policies:
    """Policies, and what of them is kept in a run.

    learned: the name of the part of `model` that learns; the part `OLD` has the same names. averaged: makes a
    transformer of averaged weights. merged: makes a copy of the old policy whose layers may be replaced.
    """

    learning: Sana
    old: Sana
    reference: Sana
    model: nn.ModuleDict
    learned: str
    averaged: Callable[[nn.Module], Sana]
    merged: Callable[[], Sana]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the old policy: old = decay * old + (1 - decay) * learning."""
        own, old = (dict(self.model[name].named_parameters()) for name in (self.learned, OLD))
        assert own.keys() == old.keys()
        for name, parameter in old.items():
            parameter.lerp_(own[name].detach(), 1 - decay)

    def drafting(self, plan: Plan | None) -> Sana:
        """Return the old policy as it is now, quantised by a plan; None: the old policy itself."""
        if plan is None:
            return self.old
        drafting = self.merged()
        quantize(drafting, plan)
        return drafting


def whole_policies(transformer: Sana) -> Policies:
    """Return policies of which all weights learn, beginning as a transformer, float32, that is left as it is.

    They take its memory three times.
    """
    reference = transformer.eval().requires_grad_(False)
    old, learning = copy.deepcopy(reference), copy.deepcopy(reference).train().requires_grad_(True)
    return Policies(
        learning=learning,
        old=old,
        reference=reference,
        model=nn.ModuleDict({TRANSFORMER: learning, OLD: old}),
        learned=TRANSFORMER,
        averaged=lambda averaged: cast(Sana, cast(nn.ModuleDict, averaged)[TRANSFORMER]),
        merged=lambda: sharing(old),
    )


def adapter_policies(transformer: Sana, adapter: Adapter) -> Policies:
    """Return policies that differ by an adapter beside a transformer, which is frozen and may be quantised.

    adapter: float32, as from `fresh_adapter`; the tensors trained are copies.
    """
    own = AdapterSet(transformer.eval().requires_grad_(False))
    own.add(adapter.to(torch.float32), ADAPTER)
    learning, old = (nn.ModuleDict(copy.deepcopy(dict(named_parts(own)))) for _ in range(2))
    with_learning, with_old = with_matrices(own, learning), with_matrices(own, old)
    own.weigh({ADAPTER: 0.0})

    def merged() -> Sana:
        one = with_old.twin()
        one.merge()
        return one.transformer

    return Policies(
        learning=with_learning.transformer,
        old=with_old.transformer,
        reference=own.transformer,
        model=nn.ModuleDict({ADAPTER: learning.requires_grad_(True), OLD: old.requires_grad_(False)}),
        learned=ADAPTER,
        averaged=lambda averaged: (
            with_matrices(
                with_learning, cast(nn.ModuleDict, cast(nn.ModuleDict, averaged)[ADAPTER])
            ).transformer
        ),
        merged=merged,
    )


def sharing(transformer: Sana) -> Sana:
    """Return a copy of a transformer's layers that shares every tensor: they can be replaced in it."""
    tensors = chain(transformer.parameters(), transformer.buffers())
    return copy.deepcopy(transformer, {id(tensor): tensor for tensor in tensors})
