"""Adapters on a transformer: attached, weighed, taken off again, or merged into its weights.

A layer with adapters is an `Adapted` in the place of the layer itself, which it keeps. So taking the last one
off puts back the very layer that was there. Prompts that were prepared before a change (`Sana.prepare`) hold
keys and values of the old weights: prepare them again.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from sanakit.adapters.adapter import Adapter, AdapterPart
from sanakit.adapters.layer import Adapted, AdaptedLatents, LowRank, dora_gain, float_layer, merged_matrix
from sanakit.errors import SettingsError, of_setting
from sanakit.models.layers import Linear, Pointwise
from sanakit.models.sana import LatentEmbedder, Sana
from sanakit.quant.layer import Quantized

MOST_WEIGHT = 100.0  # of either sign; useful ones lie between -2 and 2
MAX_NAME = 200  # characters


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """One adapter as an image is drawn with it; the file's name and fingerprint say which it is."""

    name: str
    file: str
    weight: float
    fingerprint: str


class AdapterSet:
    """The adapters of one transformer, by name; weights are of any sign, 0 turns one off."""

    def __init__(self, transformer: Sana) -> None:
        self.transformer = transformer
        self._adapters: dict[str, Adapter] = {}
        self._weights: dict[str, float] = {}
        self._merged: tuple[Use, ...] = ()

    @property
    def weights(self) -> dict[str, float]:
        """The adapters that are attached, and their weights."""
        return dict(self._weights)

    @property
    def bytes(self) -> int:
        """The bytes of all that is attached."""
        return sum(adapter.bytes for adapter in self._adapters.values())

    @property
    def uses(self) -> tuple[Use, ...]:
        """All that changes what is drawn now: what was merged, then what has a weight other than 0."""
        now = [self._use(name) for name, weight in self._weights.items() if weight]
        return (*self._merged, *now)

    @torch.no_grad()
    def add(self, adapter: Adapter, name: str, weight: float = 1.0) -> None:
        """Attach an adapter, beside those that are there. name: new. Raises SettingsError."""
        self._check_changeable()
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
            raise SettingsError(f"An adapter's name must be a text of 1 to {MAX_NAME} characters.")
        if name in self._adapters:
            raise SettingsError(f"An adapter named {name!r} is loaded already: choose another name.")
        weight = checked_weight(name, weight)
        for part in adapter.parts:
            layer = self._adapted(part.place.layer)
            module = _low_rank(name, part, layer.base)
            module.weight = weight
            layer.adapters.append(module)
        self._adapters[name], self._weights[name] = adapter, weight

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Set the weights of adapters; all others are turned off. Raises SettingsError for unknown names."""
        self._check_known(weights)
        wanted = {
            name: checked_weight(name, weights[name]) if name in weights else 0.0 for name in self._weights
        }
        if wanted == self._weights:
            return
        self._check_changeable()
        for part in self._parts():
            part.weight = wanted[part.owner]
        self._weights = wanted

    def remove(self, names: Collection[str]) -> list[Adapter]:
        """Take adapters off and return them. Raises SettingsError for unknown names."""
        self._check_known(names)
        self._check_changeable()
        for path, layer in list(self._layers()):
            left = [part for part in layer.adapters if isinstance(part, LowRank) and part.owner not in names]
            layer.adapters = nn.ModuleList(left)
            if not left:
                self.transformer.set_submodule(path, layer.base)
        self._weights = {name: weight for name, weight in self._weights.items() if name not in names}
        return [self._adapters.pop(name) for name in dict.fromkeys(names)]

    @torch.no_grad()
    def merge(self) -> list[str]:
        """Sum all adapters into the weights, at their weights now, and take them off; no way leads back.

        Sums are made in float32 and kept in the dtype that the transformer computes in. A quantised layer is
        widened, changed and rounded again. Returns what the user should know.
        """
        self._check_changeable()
        rounded, layers = 0, list(self._layers())
        for path, layer in layers:
            base = layer.base
            if any(part.weight for part in layer.adapters):
                rounded += isinstance(base, Quantized)
                base = _with_matrix(base, merged_matrix(base, layer.adapters), self.transformer.dtype)
            self.transformer.set_submodule(path, base)
        self._merged = self.uses
        self._adapters, self._weights = {}, {}
        if not rounded:
            return []
        return [
            f"{rounded} of the {len(layers)} changed layers are quantised: merging rounds them again, and "
            "changes smaller than a step of their few bits are lost. Unmerged adapters lose nothing."
        ]

    def twin(self) -> AdapterSet:
        """Return the same on a copy of the layers that shares every tensor: what changes there stays there.

        Raises SettingsError for a compiled transformer.
        """
        self._check_changeable()
        tensors = chain(self.transformer.parameters(), self.transformer.buffers())
        other = AdapterSet(copy.deepcopy(self.transformer, {id(tensor): tensor for tensor in tensors}))
        other._adapters, other._weights = dict(self._adapters), dict(self._weights)
        other._merged = self._merged
        return other

    def parts(self, name: str) -> Iterator[tuple[str, LowRank]]:
        """Yield an adapter's parts with the paths of their layers, for training."""
        for path, layer in self._layers():
            yield from ((path, part) for part in layer.adapters if part.owner == name)  # pyright: ignore

    def _use(self, name: str) -> Use:
        adapter = self._adapters[name]
        return Use(name=name, file=adapter.file, weight=self._weights[name], fingerprint=adapter.fingerprint)

    def _layers(self) -> Iterator[tuple[str, Adapted | AdaptedLatents]]:
        for path, layer in self.transformer.named_modules():
            if isinstance(layer, Adapted | AdaptedLatents):
                yield path, layer

    def _parts(self) -> Iterator[LowRank]:
        for _, layer in self._layers():
            yield from (part for part in layer.adapters if isinstance(part, LowRank))

    def _adapted(self, path: str) -> Adapted | AdaptedLatents:
        """Return the layer of a path with room for adapters, which it gets if it has none."""
        layer = self.transformer.get_submodule(path)
        if isinstance(layer, Adapted | AdaptedLatents):
            return layer
        if isinstance(layer, LatentEmbedder):
            made = AdaptedLatents(layer)
        else:
            assert isinstance(layer, Linear | Pointwise | Quantized), path
            made = Adapted(layer)
        self.transformer.set_submodule(path, made)
        return made

    def _check_known(self, names: Collection[str] | Mapping[str, float]) -> None:
        """Raise SettingsError for names of no adapter."""
        if unknown := [name for name in names if name not in self._adapters]:
            have = f"there are: {', '.join(self._adapters)}" if self._adapters else "none is loaded"
            raise SettingsError(f"The adapter {unknown[0]!r} is not loaded; {have}.")

    def _check_changeable(self) -> None:
        """Raise SettingsError for a compiled transformer: its graphs keep what they were made of."""
        if any("sample" in vars(block) for block in self.transformer.blocks):
            raise SettingsError(
                "A compiled model keeps the adapters that it was compiled with: name them when it is loaded "
                "(from_pretrained(..., adapters=...)), or load it without compile."
            )


@of_setting("adapters")
def checked_weight(name: str, weight: float) -> float:
    """Return an adapter's weight as a float. Raises SettingsError unless it is a number in range."""
    number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
    if not number or abs(weight) > MOST_WEIGHT:
        raise SettingsError(
            f"The weight of the adapter {name!r} is {weight!r}; it must be a number from {-MOST_WEIGHT:g} to "
            f"{MOST_WEIGHT:g}: 1 is usual, 0 turns it off."
        )
    return float(weight)


def recorded(uses: Collection[Use]) -> str:
    """Return adapters as text, for an image's settings; "" for none.

    >>> recorded([Use(name="a", file="a.safetensors", weight=0.5, fingerprint="12")])
    '[{"name": "a", "file": "a.safetensors", "weight": 0.5, "fingerprint": "12"}]'
    """
    return json.dumps([asdict(use) for use in uses], ensure_ascii=True) if uses else ""


def recorded_weights(text: str) -> dict[str, float]:
    """Return names and weights of recorded adapters. Raises SettingsError for what is not a record."""
    return {use.name: use.weight for use in recorded_uses(text)}


def check_recorded(text: object, now: str) -> None:
    """Raise SettingsError unless what an image was drawn with is what is in use; None: nothing was recorded.

    text: as from `recorded`, of the image that is to be drawn again. now: the same of the model. Names do
    not count.
    """
    if text is None:
        return
    wanted, have = ([use for use in recorded_uses(one) if use.weight] for one in (text, now))
    missing = [use for use in wanted if _which(use) not in map(_which, have)]
    other = [use for use in have if _which(use) not in map(_which, wanted)]
    if missing:
        one = missing[0]
        raise SettingsError(
            f"This image was drawn with the adapter {one.file} at a weight of {one.weight:g} (fingerprint "
            f"{one.fingerprint[:12]}): load that file with this weight first."
        )
    if other:
        raise SettingsError(
            f"This image was drawn without the adapter {other[0].file}: turn it off, or omit the setting."
        )


def recorded_uses(text: object) -> list[Use]:
    """Return the adapters of a recorded text. Raises SettingsError for any other text."""
    try:
        rows = json.loads(str(text)) if text else []
        texts = ("name", "file", "fingerprint")
        return [Use(**{key: str(row[key]) for key in texts}, weight=float(row["weight"])) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise SettingsError(f"The setting adapters is {text!r}, which is not a record of adapters.") from None


def _which(use: Use) -> tuple[str, float]:
    return use.fingerprint, use.weight


def _low_rank(owner: str, part: AdapterPart, base: nn.Module) -> LowRank:
    """Return a part as the module that computes it, on the device of its layer."""
    device = next(chain(base.parameters(), base.buffers())).device
    down, up = part.down.to(device), part.up.to(device)
    start, gain = part.place.start, None
    if part.magnitude is not None:
        gain = dora_gain(base, part.magnitude.to(device), down, up, part.scale, start)
    return LowRank(owner, down, up, part.scale, start, gain)


def _with_matrix(base: nn.Module, matrix: Tensor, dtype: torch.dtype) -> nn.Module:
    """Return a layer with another matrix (N K, float32): itself, or a quantised one made again."""
    if isinstance(base, Quantized):
        plain = Linear(base.in_features, base.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(matrix, requires_grad=False)
        plain.register_parameter("bias", base.bias)
        return type(base).of(plain).train(base.training)
    inner = float_layer(base)
    old = inner.weight
    inner.weight = nn.Parameter(matrix.view(old.shape).to(dtype), requires_grad=old.requires_grad)
    return base
