"""Quantise a module's layers by a plan, or widen them again: in place, one by one, without a second copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from sanakit.models.layers import Linear, Pointwise
from sanakit.quant.layer import Product, Quantized
from sanakit.quant.plans import Plan


@torch.no_grad()
def quantize(module: nn.Module, plan: Plan, done: Callable[[nn.Module], object] | None = None) -> None:
    """Put quantised layers in the place of those that a plan names.

    module: a `Sana`, `ControlNet` or `Gemma2`. done: called with each layer that has been replaced, to free
    its memory. A layer that is quantised already stays as it is.
    """
    for name, layer, kind in list(chosen(module, plan)):
        module.set_submodule(name, kind.of(layer))
        if done is not None:
            done(layer)


@torch.no_grad()
def dequantize(module: nn.Module, like: nn.Module) -> None:
    """Put float layers in the place of quantised ones, with the matrices that those compute with.

    like: the same module unquantised, on the meta device, which gives its layers away. The loss by rounding
    stays.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, Quantized):
            plain = like.get_submodule(_own_name(name))
            state = {
                key: layer.dequantized().reshape(tensor.shape) if key.endswith("weight") else layer.bias
                for key, tensor in plain.state_dict().items()
            }
            plain.load_state_dict(state, strict=True, assign=True)
            module.set_submodule(name, plain.train(layer.training))


def stand_in(module: nn.Module, plan: Plan) -> None:
    """Do as `quantize` for a module on the meta device, whose contents are to be filled in from a file."""
    for name, layer, kind in list(chosen(module, plan)):
        module.set_submodule(name, kind.empty(layer))


def chosen(module: nn.Module, plan: Plan) -> Iterator[tuple[str, Product, type[Quantized]]]:
    """Yield the layers that a plan quantises: name, layer, and what takes its place."""
    for name, layer in module.named_modules():
        if isinstance(layer, Linear | Pointwise) and (kind := plan.choose(_own_name(name))) is not None:
            yield name, layer, kind


def _own_name(name: str) -> str:
    """Return a layer's name in a model without adapters: with some, it is the `base` of what they stand in.

    >>> _own_name("blocks.3.cross_attn.kv_linear.base")
    'blocks.3.cross_attn.kv_linear'
    """
    return name.removesuffix(".base")
