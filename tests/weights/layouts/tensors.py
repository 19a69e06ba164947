"""Tensors of models by name: their headers, and whether two models have the same."""

from __future__ import annotations

import torch
from torch import Tensor

from sanakit.weights.read.header import TensorInfo


def headers(state: dict[str, Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(tuple(tensor.shape), "float32") for name, tensor in state.items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
