"""One call of a pipeline, checked and complete before any work begins.

Checking needs no weights, only the `ModelSpec` of a model, so a server can refuse invalid requests at once.
Shapes: B images, C h w latents, H W pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, TypeVar, cast

import numpy as np
from PIL import Image
from torch import Tensor

from sanakit import __version__
from sanakit.adapters.attach import check_recorded
from sanakit.arguments import check_arguments
from sanakit.dialect import USUAL, Dialect, check_dialect
from sanakit.errors import SettingsError
from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.euler import Euler, euler_times
from sanakit.flow.guidance import check_scale
from sanakit.flow.guidance_kinds import PLAIN, GuidanceKind, check_kind
from sanakit.flow.scm import SCM, scm_times
from sanakit.flow.solver import Solver
from sanakit.images.image import BINNED_SAMPLE_SIZES, Metadata, drawn_size
from sanakit.images.settings import GRID
from sanakit.models.contracts import CodecConfig, LatentShape, TransformerConfig
from sanakit.pipelines.control import (
    NONE,
    Conditions,
    Controls,
    InitialImage,
    check_controls,
    listed,
    recorded,
    size_like,
)
from sanakit.pipelines.result import Output
from sanakit.text.prompt_weights import WeightedText, checked_prompts, read_all, unheard
from sanakit.weights.fingerprint import other_weights
from sanakit.weights.settings import ModelSettings

SOLVERS: dict[str, tuple[Callable[[Tensor, bool | None], Solver], Callable[[int, float], Tensor]]] = {
    "dpm": (lambda times, whole: FlowDPM(times, whole=whole is not False), dpm_times),
    "euler": (lambda times, whole: Euler(times, whole=whole is True), euler_times),
    "scm": (lambda times, whole: SCM(times), lambda steps, shift: scm_times(steps)),
}
MAX_IMAGES, MAX_SEED = 256, 2**63 - 1  # of one call
# Settings of other tasks that a PNG may carry -> what draws its image again.
_ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("best_of", "score"), "`sana generate`, or by this call without best_of and score"),
    **dict.fromkeys(("upscale", "upscale_strength", "upscale_model"), "`sana generate` or Upscale"),
    **dict.fromkeys(GRID, "the page of `sana ui`, under X/Y grid"),
    "strength": "`sana edit` or ImageToImage, from the image that it was made from",
}

Number = TypeVar("Number")


class SampleSettings(TypedDict, total=False):
    """The settings that all tasks share, as for `TextToImage.__call__`; left out: the model's own."""

    steps: int | None
    guidance: float | None
    guidance_kind: str | None
    seed: int | None
    num_images: int
    solver: str | None
    latents: Tensor | None
    output: Output
    binned: bool
    dialect: Dialect | None
    prompt_weights: bool


class DrawSettings(SampleSettings, total=False):
    """The same, with what steers a pipeline's own ControlNets."""

    control: Controls | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """The facts about a model that checking a call needs."""

    settings: ModelSettings
    latent_channels: int  # C
    sample_size: int  # side in latents that the model was trained at
    compression: int  # pixels a latent, along one side
    guidance_embed: bool = False  # SANA-Sprint: the guidance scale is an input of the model
    depth: int = 0  # blocks of the transformer; 0: not to be looked into
    controlnets: int = 0
    nets: tuple[str, ...] = ()  # "name@hash" of each, "" where it was not read from a file
    dense_time: bool = False  # times go to the model in [0, 1], as for Sprint, its teacher and pocket
    adapters: str = ""  # the record of those in use, see `adapters/attach.py`
    fingerprint: str = ""  # of the weights, the first digits; "": not known

    @property
    def whole_times(self) -> bool | None:
        """Whether model times are whole; None: as diffusers' solver has them. The scripts ask the model."""
        return None if self.settings.dialect == USUAL else not self.dense_time

    def drawn_size(self, width: int, height: int, *, binned: bool = True) -> tuple[int, int]:
        """Return (height, width) in pixels of what the transformer draws for an image of width x height.

        binned: of the sizes that the model's folder lists, the one of the nearest shape, then of the nearest
        area; where it lists none, as `images.drawn_size`. Raises SizeError.
        """
        learned = [size for size in self.settings.sizes if not any(side % self.compression for side in size)]
        if not (binned and learned):
            side = {"sample_size": self.sample_size, "compression": self.compression}
            return drawn_size(width, height, **side, binned=binned, dialect=self.settings.dialect)
        # for its limits alone
        drawn_size(width, height, sample_size=BINNED_SAMPLE_SIZES[0], compression=1, binned=True)

        def distance(size: tuple[int, int]) -> tuple[float, float]:
            shape = abs(math.log(size[0] * height / (size[1] * width)))
            return round(shape, 2), abs(math.log(size[0] * size[1] / (width * height)))

        across, down = min(learned, key=distance)
        return down, across

    def size_like(self, image: Image.Image, *, binned: bool = True) -> tuple[int, int]:
        """Return (width, height) of an image's shape: of the sizes that the model lists, the nearest."""
        width, height = size_like(image, self.settings.width, self.settings.height, self.compression)
        if self.settings.sizes:
            height, width = self.drawn_size(width, height, binned=binned)
        return width, height

    @classmethod
    def of(
        cls, settings: ModelSettings, transformer: TransformerConfig, autoencoder: CodecConfig
    ) -> ModelSpec:
        """Take it from a model's settings and sizes."""
        return cls(
            settings=settings,
            latent_channels=transformer.latent_channels,
            sample_size=transformer.sample_size,
            compression=autoencoder.compression,
            guidance_embed=transformer.guidance_embed,
            depth=transformer.depth,
            dense_time=transformer.time_scale == 1,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """One call, checked and complete."""

    texts: list[WeightedText]  # the prompts; their metadata have them as they were typed
    counts: list[int]  # images of each prompt
    negatives: list[WeightedText]  # one a prompt
    steps: int
    guidance: float
    solver: Solver | None  # None: no step is taken (strength 0)
    seeds: list[int]  # one per image; empty where the caller gave all the noise
    cells: LatentShape  # of one sample
    latents: Tensor | None  # B C h w, the caller's own noise
    size: tuple[int, int]  # height and width that were requested, pixels
    output: Output
    metadata: list[Metadata]  # one per image
    conditions: Conditions = NONE
    kind: GuidanceKind = PLAIN
    guidance_embed: bool = False  # as in `ModelSpec`
    nets: tuple[str, ...] = ()  # as there
    dialect: Dialect = USUAL
    notes: tuple[str, ...] = ()  # what the user should know, such as that an image is resized

    @property
    def prompts(self) -> list[str]:
        """The prompts as they are encoded, without the signs of weights."""
        return [text.text for text in self.texts]

    @property
    def nulls(self) -> list[WeightedText]:
        """The negative prompts that guidance needs, each once."""
        return list(dict.fromkeys(self.negatives)) if self.guided else []

    @property
    def guided(self) -> bool:
        """Whether the unconditional half is computed too: not at a scale of 1 and below, nor for Sprint."""
        return self.guidance > 1 and not self.guidance_embed

    @property
    def branches(self) -> int:
        """The number of velocities that a sample's step may need."""
        return 1 + self.guided + bool(self.kind.pag)

    @property
    def from_noise(self) -> bool:
        """Whether drawing starts from pure noise: always, except from an image at a strength below 1."""
        return self.solver is not None and len(self.solver.times) > self.steps

    @property
    def model(self) -> str:
        """The name of the model that it was checked for."""
        return str(self.metadata[0]["model"])

    @property
    def num_images(self) -> int:
        """The number of requested images."""
        return sum(self.counts)


def check_request(
    spec: ModelSpec,
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] = "",
    *,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    guidance_kind: str | None = None,
    seed: int | None = None,
    num_images: int = 1,
    solver: str | None = None,
    latents: Tensor | None = None,
    output: Output = "pil",
    binned: bool = True,
    dialect: Dialect | None = None,
    prompt_weights: bool = False,
    control: Controls | None = None,
    source: InitialImage | None = None,
    **others: object,
) -> Request:
    """Check one call and complete it with the model's own settings; all as for `TextToImage.__call__`.

    source: the image to start from, which has been brought to a size that the model draws; its own size
    is the result's then. Raises SettingsError or SizeError.
    """
    check_recorded(others.pop("adapters", None), spec.adapters)
    differs = other_weights(others.pop("fingerprint", ""), spec.settings.name, spec.fingerprint)
    for name in others:
        if name not in _ELSEWHERE:
            check_arguments([name], DrawSettings.__annotations__)
        raise SettingsError(f"{name} is not a setting of text to image: draw it by {_ELSEWHERE[name]}.")
    usual = spec.settings.dialect
    if dialect is not None:
        spec = replace(spec, settings=replace(spec.settings, dialect=check_dialect(dialect)))
    own = spec.settings
    images = listed(control, spec.controlnets, own.name)
    if images and width is None and height is None:
        width, height = spec.size_like(images[0].image, binned=binned)
    width = own.width if width is None else plain(width)
    height = own.height if height is None else plain(height)
    steps = own.steps if steps is None else plain(steps)
    guidance = own.guidance if guidance is None else plain(guidance)
    solver = own.solver if solver is None else solver
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    prompts, negatives = checked_prompts(prompt, negative_prompt, MAX_IMAGES)
    check_solver(spec, solver, negatives)
    texts, nulls, of_weights = read_all(prompts, negatives, prompt_weights)
    num_images = whole_number("num_images", num_images, 1, MAX_IMAGES // len(prompts))
    count = len(prompts) * num_images
    seed = whole_number("seed", seed, 0, MAX_SEED)
    seeds = list(range(seed, seed + count)) if latents is None or solver == "scm" else []
    if isinstance(guidance, bool) or not isinstance(guidance, int | float):
        text = f"guidance = {guidance!r}, but it must be a number; {own.guidance:g} is usual."
        raise SettingsError(text, setting="guidance")
    check_scale(guidance, own.guidance)
    wanted = guidance_kind
    if wanted is None:  # the model's own kind goes with guidance; a scale of 1 asks for neither
        wanted = own.guidance_kind if guidance > 1 else str(PLAIN)
    known = {"model": own.name, "blocks": spec.depth, "sprint": spec.guidance_embed}
    kind = check_kind(wanted, guidance, steered=bool(images), **known)
    if output not in ("pil", "pt", "latent"):
        raise SettingsError(f'output = {output!r}, but it must be "pil", "pt" or "latent".')
    if source is None:
        drawn = spec.drawn_size(width, height, binned=binned)
        notes = size_notes(spec, drawn, (height, width))
    else:
        drawn, (height, width), notes = source.pixels.shape[2:], source.size, ()
    cells = LatentShape.image(
        spec.latent_channels, drawn[0] // spec.compression, drawn[1] // spec.compression
    )
    if latents is not None:
        cells.check(latents, count)
    shared = {"width": width, "height": height, "steps": steps}
    shared |= {"guidance": float(guidance), "solver": solver, "model": own.name, "version": __version__}
    shared |= {"fingerprint": spec.fingerprint} if spec.fingerprint else {}
    shared |= {} if own.guidance_kind == str(kind) == str(PLAIN) else {"guidance_kind": str(kind)}
    shared |= {} if usual == own.dialect == USUAL else {"dialect": own.dialect}
    shared |= {"prompt_weights": True} if prompt_weights else {}
    shared |= {} if source is None else {"strength": source.strength}
    shared |= {"adapters": spec.adapters} if spec.adapters else {}
    shared |= {"control": recorded(images, spec.nets)} if images else {}
    both = [pair for pair in zip(prompts, negatives, strict=True) for _ in range(num_images)]
    metadata: list[Metadata] = [{"prompt": p, "negative_prompt": n, **shared} for p, n in both]
    for one, its_seed in zip(metadata, seeds, strict=False):
        one["seed"] = its_seed
    sampler = make_sampler(solver, steps, own.shift, source.strength if source else 1.0, spec.whole_times)
    controls, told = check_controls(images, spec.controlnets, (drawn[0], drawn[1]), sampler)
    return Request(
        texts=texts,
        counts=[num_images] * len(prompts),
        negatives=nulls,
        steps=steps,
        guidance=float(guidance),
        kind=kind,
        solver=sampler,
        seeds=seeds,
        cells=cells,
        latents=latents,
        size=(height, width),
        output=output,
        metadata=metadata,
        conditions=Conditions(image=source, control=controls),
        guidance_embed=spec.guidance_embed,
        nets=spec.nets,
        dialect=own.dialect,
        notes=(*own.notes, *differs, *notes, *told, *of_weights, *unheard(negatives, guidance)),
    )


def size_notes(spec: ModelSpec, drawn: tuple[int, int], size: tuple[int, int]) -> tuple[str, ...]:
    """Return what the user should know where a model that lists its sizes draws another than the asked one.

    drawn, size: height and width in pixels. The bins of published models are their usual way, and not told.
    """
    if not spec.settings.sizes or drawn == size:
        return ()
    asked, nearest = f"{size[1]}x{size[0]}", f"{drawn[1]}x{drawn[0]}"
    return (
        f"{spec.settings.name} did not learn the size {asked}: the image is drawn at {nearest}, the "
        "nearest that it learned, and resized.",
    )


def check_solver(spec: ModelSpec, solver: str, negatives: Sequence[str]) -> None:
    """Raise SettingsError for what a SANA-Sprint model, or any other, cannot be drawn with."""
    name, sprint = spec.settings.name, spec.guidance_embed
    if sprint and any(negatives):
        text = f"{name} is a SANA-Sprint model, which takes no negative prompt: omit it."
        raise SettingsError(text, setting="negative_prompt")
    if solver not in (("scm",) if sprint else ("dpm", "euler")):
        own = '"scm", as all SANA-Sprint models' if sprint else '"dpm" (usual) or "euler"'
        text = f"solver = {solver!r}, but {name} supports only {own}: omit it, or use that."
        raise SettingsError(text, setting="solver")


def steps_done(steps: int, strength: float) -> int:
    """Return how many of all steps are done at a strength in [0, 1]: that share of them, rounded up.

    >>> steps_done(20, 0.6), steps_done(5, 0.5), steps_done(20, 0)
    (12, 3, 0)
    """
    return math.ceil(steps * strength - 1e-9)  # less than a float's error in the product


def make_sampler(
    solver: str, steps: int, shift: float, strength: float = 1.0, whole: bool | None = None
) -> Solver | None:
    """Return the solver called so, with the times of the last `strength` of all steps; None: of no step.

    whole: whether model times are; None: as in diffusers. SCM ignores it and the shift. Raises SettingsError.
    """
    if solver not in SOLVERS:
        raise SettingsError(f'solver = {solver!r}, but it must be "dpm" (usual), "euler" or "scm".')
    kind, grid = SOLVERS[solver]
    times, done = grid(steps, shift), steps_done(steps, strength)
    if solver == "scm" and strength < 1 and done == steps:  # of so few steps, a share is soon all of them
        raise SettingsError(
            f"strength {strength:g} of {steps} steps covers all of them and ignores the image: use "
            f"{math.ceil(1 / (1 - strength))} steps or more, or less strength; 1 redraws.",
            setting="strength",
        )
    return kind(times[steps - done :], whole) if done else None


def plain(value: Number) -> Number:
    """Return a number of NumPy as Python's own, and any other value as it is."""
    return cast(Number, value.item()) if isinstance(value, np.generic) else value


def whole_number(name: str, value: int, lowest: int, highest: int) -> int:
    """Return the value if it is a whole number in the range. Raises SettingsError."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        text = f"{name} = {value!r}, but it must be a whole number from {lowest} to {highest}."
        raise SettingsError(text, setting=name)
    return value
