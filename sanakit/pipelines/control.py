"""Images that a drawing starts from or is steered by: the conditions of a request besides its prompts.

The image to start from is made by `pipelines/source.py`. A control image is brought to the drawn size and
made into a hint (`images/hints.py`). It then goes through the autoencoder, and steers every step within its
range through a ControlNet, with and without the prompt.
Shapes: H W pixels of what is drawn, C h w its latents.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor

from sanakit.errors import SettingsError
from sanakit.flow.solver import Solver
from sanakit.images.hints import HINT_KINDS, HintKind, make_hint
from sanakit.images.image import MAX_SIDE, MIN_SIDE, to_tensor
from sanakit.images.opening import flatten
from sanakit.models.contracts import VelocityModel
from sanakit.models.controlnet import ALWAYS, Control, ControlledSana, ControlNet
from sanakit.models.sana import has_blocks

MAX_SCALE = 100.0
_ROUNDING = 1e-9  # of a share of the steps
_DIGITS = 12  # of an image's hash
_RECORD = re.compile(
    r"([a-z-]+) (-?[0-9.]+)(?: from ([0-9.]+) to ([0-9.]+))?(?: of ([0-9a-f]+))?(?: by (.+)@[0-9a-f]+)?"
)
SAME_SHAPE = 0.02  # difference of two aspect ratios that nobody is told about


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class InitialImage:
    """An image that drawing starts from, see `pipelines/source.py`."""

    pixels: Tensor  # 1 3 H W in [-1, 1], of the drawn size
    strength: float  # in [0, 1]: 1 redraws, 0 keeps what the autoencoder keeps
    mask: Tensor | None  # 1 1 h w: 1 where latents are redrawn, 0 where they are kept; None: all are drawn
    size: tuple[int, int]  # height and width of the result, pixels
    finish: Callable[[Image.Image], Image.Image]  # the drawn image to the result, of that size


@dataclass(frozen=True, slots=True, eq=False)
class ControlImage:
    """An image that steers a drawing.

    image: of any size and mode; it is scaled to the drawn size, and cut where it has another shape.
    scale: how strongly it steers: 0 not at all, 1 as trained; from -100 to 100. kind: the hint to make of it,
    "edges", "lines", "soft-edges", "blocks" or "mask"; "as-is": it is a hint already. Use the kind that the
    ControlNet was trained on. start, end: the shares of the steps from which and until which it steers, from
    0 to 1.
    """

    image: Image.Image
    _: KW_ONLY
    scale: float = 1.0
    kind: HintKind = "as-is"
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Raise SettingsError for a value out of its range."""
        if not isinstance(self.image, Image.Image):
            came = type(self.image).__name__
            raise SettingsError(f"The control image came as {came}: open it with PIL.Image.open.")
        if self.kind not in HINT_KINDS:
            text = f"control kind = {self.kind!r}, but it must be {', '.join(HINT_KINDS)}."
            raise SettingsError(text, setting="control_kind")
        limits = {"scale": (-MAX_SCALE, MAX_SCALE), "start": (0.0, 1.0), "end": (0.0, 1.0)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                raise SettingsError(
                    f"control {name} = {value!r}, but it must be a number from {least:g} to {most:g}.",
                    setting=f"control_{name}",
                )
        if self.start >= self.end:
            raise SettingsError(
                f"The control starts at {self.start:g} and ends at {self.end:g}: the end must be later.",
                setting="control_end",
            )

    @property
    def settings(self) -> str:
        """Return its settings in words, as a PNG keeps them: "edges 0.8 from 0 to 0.5"."""
        scale, start, end = (
            np.format_float_positional(number, trim="-") for number in (self.scale, self.start, self.end)
        )
        return f"{self.kind} {scale}" + ("" if (start, end) == ("0", "1") else f" from {start} to {end}")

    @property
    def fingerprint(self) -> str:
        """Return the first digits of the SHA-256 of its size and pixels in RGB: files do not count."""
        picture = flatten(self.image)
        told = f"{picture.width}x{picture.height} ".encode() + picture.tobytes()
        return hashlib.sha256(told).hexdigest()[:_DIGITS]


Controls = ControlImage | Sequence[ControlImage]


def recorded(images: Sequence[ControlImage], nets: Sequence[str] = ()) -> str:
    """Return the settings of control images as a PNG keeps them, with the hash of each image.

    nets: "name@hash" of each, "" where unknown; or of the one for all.
    >>> recorded([ControlImage(Image.new("L", (1, 1)), kind="edges")], ["lines@90ab12cd34ef"])
    'edges 1 of 9fb3a2dfb666 by lines@90ab12cd34ef'
    """
    every = [*nets] * (len(images) if len(nets) == 1 else 1) or [""] * len(images)
    return "; ".join(
        f"{one.settings} of {one.fingerprint}" + (f" by {net}" if net else "")
        for one, net in zip(images, every, strict=True)
    )


class ControlRecord(NamedTuple):
    """One recorded control: its settings, its ControlNet's name, its image's hash; "": nothing was said."""

    kind: str
    scale: str
    start: str
    end: str
    net: str
    image: str


def recorded_controls(text: object) -> list[ControlRecord]:
    """Return each control in a text of `recorded`. Raises SettingsError for what is not a record.

    >>> recorded_controls("edges 0.8 from 0 to 0.5 by lines@90ab12cd34ef")[0][:5]
    ('edges', '0.8', '0', '0.5', 'lines')
    """
    found = [_RECORD.fullmatch(one) for one in str(text).split("; ")] if text else []
    if not all(found):
        raise SettingsError(f"The setting control is {str(text)[:200]!r}, which is not a record of control.")
    return [ControlRecord(*(m[group] or "" for group in (1, 2, 3, 4, 6, 5))) for m in found if m]


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedControl:
    """One control image of a request, checked.

    image: RGB, of the drawn size. kind: the hint to make of it. net: the number of the ControlNet among the
    model's. times: first and last t that it steers at.
    """

    image: Image.Image
    kind: HintKind
    scale: float
    net: int
    times: tuple[float, float]

    @cached_property
    def pixels(self) -> Tensor:
        """Return its hint, 1 3 H W in [-1, 1]; at 1024 px the first call takes up to a second."""
        return to_tensor(np.array(make_hint(self.image, self.kind))[None])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Conditions:
    """Conditions besides the prompts, each checked without weights; None: not given."""

    image: InitialImage | None = None  # to start from, with the mask of what is redrawn
    control: tuple[CheckedControl, ...] = ()  # what steers it

    @property
    def encoded(self) -> bool:
        """Whether there is an image, which the autoencoder has to encode."""
        return self.image is not None or bool(self.control)


NONE = Conditions()


def listed(control: Controls | None, nets: int, model: str) -> list[ControlImage]:
    """Return the control images of a call as a list. nets: ControlNets that the model has been given.

    Raises SettingsError for what is none, and where their number and that of the ControlNets do not agree.
    """
    if control is None:
        return []
    images = [control] if isinstance(control, ControlImage) else control
    if not isinstance(images, list | tuple) or not all(isinstance(one, ControlImage) for one in images):
        raise SettingsError(
            f"control = {control!r:.60}, but it must be a ControlImage or a list of them, such as "
            "ControlImage(image, scale=1.0); the settings of a PNG do not hold the image."
        )
    if images and not nets:
        raise SettingsError(
            f"{model} has no ControlNet, which a control image needs: name one (control_model), or omit the "
            "control."
        )
    if nets > 1 and len(images) != nets:
        raise SettingsError(
            f"{len(images)} control images came for {nets} ControlNets: pass one for each, in their order; a "
            "scale of 0 leaves one out."
        )
    return list(images)


def size_like(image: Image.Image, width: int, height: int, multiple: int) -> tuple[int, int]:
    """Return (width, height) in pixels of the image's shape, of about the area of a model's own size.

    multiple: of the sides. Raises SettingsError for an image that is too narrow.
    """
    across, down = flatten(image).size
    if max(across, down) > 16 * min(across, down):
        raise SettingsError(
            f"An image of {across}x{down} px is too narrow: crop it to at most 16:1, or give a size."
        )
    if abs(across * height / (down * width) - 1) <= SAME_SHAPE:
        return width, height
    scale = math.sqrt(width * height / (across * down))
    wide, high = (
        min(max(round(side * scale / multiple) * multiple, MIN_SIDE), MAX_SIDE) for side in (across, down)
    )
    return wide, high


def check_controls(
    images: Sequence[ControlImage], nets: int, drawn: tuple[int, int], solver: Solver | None
) -> tuple[tuple[CheckedControl, ...], list[str]]:
    """Bring the control images of a request to its size; return them, and what the user should know.

    drawn: height and width in pixels. solver: of the request; None takes no step. Raises SettingsError.
    """
    times = step_times(solver)
    checked: list[CheckedControl] = []
    notes: list[str] = []
    for number, one in enumerate(images):
        picture = flatten(one.image)
        ratio = picture.width * drawn[0] / (picture.height * drawn[1])
        if abs(ratio - 1) > SAME_SHAPE:
            notes.append(
                f"The control image of {picture.width}x{picture.height} px is cut to the shape of the drawn "
                f"{drawn[1]}x{drawn[0]} px."
            )
        fitted = ImageOps.fit(picture, (drawn[1], drawn[0]), Image.Resampling.LANCZOS)
        checked.append(
            CheckedControl(
                image=fitted,
                kind=one.kind,
                scale=float(one.scale),
                net=number if nets > 1 else 0,
                times=_range(times, float(one.start), float(one.end)),
            )
        )
    if nets and not images:
        notes.append("The model has a ControlNet, but no control image was given: the model draws alone.")
    return tuple(checked), notes


def step_times(solver: Solver | None) -> list[float]:
    """Return the t of every step at which a solver evaluates the model, first to last.

    >>> from sanakit.flow.euler import Euler
    >>> step_times(Euler(torch.tensor([1.0, 0.5, 0.0])))
    [1.0, 0.5]
    """
    if solver is None:
        return []
    nothing = torch.zeros(1, device="cpu", dtype=torch.float32)
    state, times = solver.start(nothing, Generator("cpu")), []
    while not state.done:
        times.append(state.t)
        state = solver.advance(state, torch.zeros_like(state.sample))
    return times


def controlled(
    transformer: VelocityModel,
    nets: Sequence[ControlNet],
    controls: Sequence[CheckedControl],
    encode: Callable[[Tensor], Tensor],
) -> VelocityModel:
    """Return the model of a request: the transformer, steered by the request's control images if it has any.

    encode: of pixels, 1 3 H W, to scaled latents, 1 C h w. Raises SettingsError for a ControlNet that does
    not fit the transformer.
    """
    if not controls:
        return transformer
    if not has_blocks(transformer):
        raise SettingsError("This model's transformer keeps its blocks to itself: no image can steer it.")
    return ControlledSana(
        transformer,
        [
            Control(net=nets[one.net], latents=encode(one.pixels), scale=one.scale, times=one.times)
            for one in controls
        ],
    )


def _range(times: Sequence[float], start: float, end: float) -> tuple[float, float]:
    """Return first and last t of the steps in a range: step i of n (from 0) if start <= i / n < end.

    Raises SettingsError if there is none.
    """
    if (start, end) == (0, 1) or not times:
        return ALWAYS
    inside = [
        t
        for i, t in enumerate(times)
        if start <= i / len(times) + _ROUNDING and i / len(times) < end - _ROUNDING
    ]
    if not inside:
        raise SettingsError(
            f"No step of {len(times)} lies from {start:g} to {end:g} of the way: widen the control's range, "
            "or take more steps."
        )
    return inside[0], inside[-1]


class Conditioned(ABC):
    """A pipeline that starts from an image, or is steered by some through its ControlNets."""

    transformer: VelocityModel
    controlnets: list[ControlNet]

    @property
    def nets(self) -> tuple[str, ...]:
        """Return "name@hash" of each ControlNet, "" for one that was not read from a file."""
        return tuple(net.label for net in self.controlnets)

    def beside(self, nets: Sequence[ControlNet]) -> Self:
        """Return a pipeline of the same parts with these ControlNets, which are counted in its plans."""
        other, plan = copy.copy(self), vars(self)["_memory"]
        vars(other).update(controlnets=list(nets), _memory=plan.beside(*dict.fromkeys(nets)))
        return other

    def encode_source(self, conditions: Conditions) -> Tensor | None:
        """Return the latents (1 C h w) of the image that a request starts from, if any; see `denoise.py`."""
        return None if conditions.image is None else self.encoded(conditions.image.pixels)

    def steered(self, conditions: Conditions) -> VelocityModel:
        """Return the transformer, steered by the control images of a request, which are encoded, if any."""
        return controlled(self.transformer, self.controlnets, conditions.control, self.encoded)

    @abstractmethod
    def encoded(self, pixels: Tensor) -> Tensor:
        """Return the scaled latents, 1 C h w, of pixels, 1 3 H W in [-1, 1]."""
