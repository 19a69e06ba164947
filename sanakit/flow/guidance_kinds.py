"""Other ways to combine velocities than the plain one of `guidance.py`, and the words that ask for them.

u, c, p: the velocities without the prompt (or with the negative prompt), with it, and with it while blocks
are perturbed; w the scale.

    cfg         u + w (c - u)                                   Ho and Salimans 2022 (arXiv:2207.12598)
    zero-star   s u + w (c - s u), s = <c, u> / |u|^2; 0 in the first `zero` steps
                                                                CFG-Zero* (arXiv:2503.18886)
    apg         d = c - u + momentum d'; d' the d of the step before; d = d min(1, limit / |d|); its part
                along c counts `along` times: c + (w - 1) (d_across + along d_along)
                                                                APG (arXiv:2410.02416)
    pag=a       + a (c - p)                                     PAG (arXiv:2403.17377)
    interval    outside of these times: c, and u is not computed (arXiv:2404.07724)
    rescale=r   g -> r g std(c) / std(g) + (1 - r) g            (arXiv:2305.08891)

All act on velocities, as SANA's scripts and diffusers do; the paper of APG acts on clean images, whose
difference is -t (c - u), and takes the part along the clean image. Norms, products and deviations are taken
over one sample, so that no image depends on what is drawn beside it.
Shapes: C h w one sample's latents; all in float32, or float64 where the velocities are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sanakit.errors import SettingsError, of_setting
from sanakit.flow.guidance import extrapolated

Combination = Literal["cfg", "zero-star", "apg"]
USUAL = "cfg"
PERTURBED = {20: 8, 28: 14}  # blocks of a published model -> the one that SANA's scripts perturb
_SYNTAX = (
    f"Write {' | '.join(get_args(Combination))}, then any of interval=0.2-0.9, rescale=0.7, pag=2, "
    "blocks=8+9, along=0, momentum=-0.5, limit=15, zero=1, separated by commas."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceKind:
    """How a sample is guided, apart from the scale. Raises SettingsError for values out of their ranges.

    combination: of u and c. interval: the lowest and the highest time in [0, 1] to guide at. rescale: in
    [0, 1]. pag: the weight of c - p, 0 to 100; 0 leaves p out. blocks: perturbed for p; (): the usual
    one. along: of apg, 0 to 1. momentum: of apg, -1 to 1, both excluded. limit: of apg, above 0. zero: of
    zero-star, in steps, 0 to 1000.
    """

    combination: Combination = USUAL
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    pag: float = 0.0
    blocks: tuple[int, ...] = ()
    along: float = 0.0
    momentum: float = -0.5
    limit: float = 15.0
    zero: int = 1

    def __post_init__(self) -> None:
        low, high = self.interval
        ranges = (
            ("combination", self.combination in get_args(Combination), " | ".join(get_args(Combination))),
            ("interval", 0 <= low < high <= 1, "two times of 0 to 1, the lower first, such as 0.2-0.9"),
            ("rescale", 0 <= self.rescale <= 1, "a number of 0 to 1"),
            ("pag", 0 <= self.pag <= 100, "a number of 0 to 100"),
            ("blocks", all(block >= 0 for block in self.blocks), "numbers of blocks, such as 8+9"),
            ("along", 0 <= self.along <= 1, "a number of 0 to 1"),
            ("momentum", -1 < self.momentum < 1, "a number between -1 and 1"),
            ("limit", 0 < self.limit < math.inf, "a finite number above 0"),
            ("zero", 0 <= self.zero <= 1000, "a whole number of 0 to 1000"),
        )
        for name, fits, rule in ranges:
            if not fits:
                raise SettingsError(f"The guidance's {name} is {getattr(self, name)!r}; it must be {rule}.")
        of = {"blocks": "pag", "along": "apg", "momentum": "apg", "limit": "apg", "zero": "zero-star"}
        active = {self.combination} | ({"pag"} if self.pag else set())
        for name in self.changed():
            if name in of and of[name] not in active:
                raise SettingsError(f"The guidance's {name} belongs to {of[name]}: add that, or omit {name}.")

    def changed(self) -> dict[str, Any]:
        """Return what differs from plain guidance, by name."""
        own = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, usual) in own.items() if value != usual}

    def __str__(self) -> str:
        """Return the text that `read_kind` takes.

        >>> str(read_kind(" apg, momentum=-0.25"))
        'apg,momentum=-0.25'
        """
        words = self.changed()
        combination = words.pop("combination", None)
        named = [f"{name}={_WRITTEN.get(name, _in_full)(value)}" for name, value in words.items()]
        return ",".join([combination] * bool(combination) + named) or USUAL

    def at(self, time: float) -> bool:
        """Return whether a sample is guided at a time in [0, 1]."""
        return self.interval[0] <= time <= self.interval[1]

    def combine(
        self, scale: float, u: Tensor, c: Tensor, p: Tensor | None, step: int, before: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return one sample's guided velocity, C h w, and what the next step's `before` must be.

        u: equal to c where only p guides. step: 0 is the first. before: None in the first step.
        """
        kept = None
        if self.combination == "apg":
            kept = c - u if before is None else c - u + self.momentum * before
            towards = kept * (self.limit / kept.norm().clamp(min=self.limit))
            along = (towards * c).sum() / c.square().sum().clamp(min=torch.finfo(c.dtype).tiny) * c
            guided = c + (scale - 1) * (towards + (self.along - 1) * along)
        elif self.combination == "zero-star":
            if step < self.zero:
                return torch.zeros_like(c), None
            part = (c * u).sum() / u.square().sum().clamp(min=torch.finfo(u.dtype).tiny)
            guided = part * u + scale * (c - part * u)
        else:
            guided = extrapolated(u, c, scale)
        if p is not None:
            guided = guided + self.pag * (c - p)
        if self.rescale:
            fitting = guided * (c.std() / guided.std().clamp(min=torch.finfo(c.dtype).tiny))
            guided = self.rescale * fitting + (1 - self.rescale) * guided
        return guided, kept


PLAIN = GuidanceKind()


def _pair(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    return float(low), float(high)


def _blocks(text: str) -> tuple[int, ...]:
    return tuple(int(block) for block in text.split("+"))


def _in_full(number: float) -> str:
    """Return a number with all its digits and without an exponent: 0.2, 2."""
    return np.format_float_positional(number, trim="-")


def _combination(text: str) -> str:
    if text not in get_args(Combination):
        raise ValueError
    return text


_READ: dict[str, Callable[[str], Any]] = {
    "combination": _combination,
    "interval": _pair,
    "rescale": float,
    "pag": float,
    "blocks": _blocks,
    "along": float,
    "momentum": float,
    "limit": float,
    "zero": int,
}
_WRITTEN: dict[str, Callable[[Any], str]] = {
    "interval": lambda pair: "-".join(map(_in_full, pair)),
    "blocks": lambda blocks: "+".join(map(str, blocks)),
}


def read_kind(text: str) -> GuidanceKind:
    """Return the kind that a text asks for: a combination, then name=value, separated by commas.

    Raises SettingsError.

    >>> read_kind("interval=0.2-0.9,rescale=0.7").interval
    (0.2, 0.9)
    """
    found: dict[str, Any] = {}
    words = [word.strip() for word in text.split(",")]
    for i, word in enumerate(words):
        name, equals, value = (part.strip() for part in word.partition("="))
        name, value = (name, value) if equals else ("combination", name)
        if name not in _READ or (not equals and i) or name in found:
            raise SettingsError(f"guidance_kind = {text!r}: {word!r} is not understood. {_SYNTAX}")
        try:
            found[name] = _READ[name](value)
        except ValueError:
            raise SettingsError(f"guidance_kind = {text!r}: {word!r} has a wrong value. {_SYNTAX}") from None
    return GuidanceKind(**found)


@of_setting("guidance_kind")
def check_kind(
    text: str, scale: float, *, model: str, blocks: int, sprint: bool, steered: bool = False
) -> GuidanceKind:
    """Return the kind that a text asks for, with the blocks to perturb.

    scale: of the guidance. model: its name. blocks: how many it has; 0: it keeps them to itself. sprint:
    whether it guides itself. steered: whether a control image is given. Raises SettingsError.
    """
    kind = read_kind(text)
    if kind == PLAIN:
        return kind
    told = f"guidance_kind = {text!r}, but"
    if sprint:
        raise SettingsError(f"{told} {model} is a SANA-Sprint model, which guides itself: omit it.")
    if scale <= 1 and kind.changed().keys() - {"pag", "blocks"}:
        raise SettingsError(f"{told} guidance {scale:g} switches it off: use a scale above 1.")
    if not kind.pag:
        return kind
    if steered:  # a ControlNet's copies run between the blocks
        raise SettingsError(f"{told} pag cannot be combined with a control image: omit one of them.")
    if not blocks:
        raise SettingsError(f"{told} {model} keeps its blocks to itself: omit pag.")
    if max(kind.blocks, default=0) >= blocks:
        raise SettingsError(f"{told} the blocks of {model} are 0 to {blocks - 1}.")
    return replace(kind, blocks=kind.blocks or (PERTURBED.get(blocks, blocks // 2),))
