"""Prompt to picture, in seven numbered steps: the first in `stream`, the others in `_draw`.

1 settings: the caller's words, else the model's own defaults    2 text: prompts to features (text/encoder)
3 context: features to every layer's keys and values, once       4 noise: from each picture's own seed
5 denoise: velocity, guidance, solver, step after step           6 decode: latents to pixels (models/dc_ae)
7 picture: cut to the asked size, with all it takes to draw it again

Source: SANA (arXiv:2410.10629); diffusers' SanaPipeline draws the same from the same weights and noise.
Shapes: B pictures (prompts x num_images, prompt after prompt), C h w latents, H W pixels.
"""

from __future__ import annotations

import os
import re
import reprlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from sanakit import __version__
from sanakit.errors import MemoryLimitError, NumericsError, SettingsError
from sanakit.flow.dpm import FlowDPM
from sanakit.flow.euler import Euler
from sanakit.flow.guidance import check_scale, classifier_free
from sanakit.flow.path import clean_from_velocity
from sanakit.flow.schedule import dpm_times, euler_times
from sanakit.models.dc_ae import DCAE
from sanakit.models.sana import Sana
from sanakit.pipelines.images import (
    Metadata,
    Result,
    draw_preview,
    drawn_size,
    fit_preview,
    resize_and_crop,
    to_pil,
)
from sanakit.text.encoder import TextEncoder
from sanakit.weights import load_autoencoder, load_settings, load_text_encoder, load_transformer
from sanakit.weights.settings import ModelSettings

Output = Literal["pil", "pt", "latent"]

MAX_IMAGES = 256  # of one call
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One finished step of `TextToImage.stream`; stop iterating and the rest is never computed."""

    index: int  # 1 is the first
    total: int
    latents: Tensor  # B C h w, float32: where the pictures stand; after the last step the clean latents
    clean: Tensor  # B C h w, float32: the clean latents that were in sight at this step
    result: Result | None = None  # the last step's only
    pipe: TextToImage = field(repr=False)

    def preview(self, image: int = 0) -> Image.Image:
        """Show what picture number `image` will be: a linear map of `clean`, 8 px a latent, no decoder.

        The map is fitted at a pipeline's first preview, which takes as long as decoding 512 px.
        """
        return self.pipe.preview(self.clean[image])


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One call, checked and complete."""

    prompts: list[str]
    counts: list[int]  # pictures of each prompt
    negative_prompt: str
    guidance: float
    solver: Any  # FlowDPM or Euler, which share their interface
    seeds: list[int]  # one a picture; empty where the caller gave the noise
    cells: tuple[int, int, int]  # C h w of what is drawn
    latents: Tensor | None  # B C h w, the caller's own noise
    size: tuple[int, int]  # height and width that were asked for, pixels
    output: Output
    metadata: list[Metadata]  # one a picture


class TextToImage:
    """A model that draws what a prompt says.

    transformer, autoencoder (its decoder will do), text_encoder: all on one device. settings: its defaults.
    """

    def __init__(
        self, transformer: Sana, autoencoder: DCAE, text_encoder: TextEncoder, settings: ModelSettings
    ) -> None:
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.settings = settings
        self._preview_weights: Tensor | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> TextToImage:
        """Load a model: catalog name, diffusers folder, .safetensors or .pth file, or Hub "org/repo".

        device: "auto" takes the accelerator if there is one. dtype: of the transformer; "auto" is what it was
        made for. Autoencoder and text encoder follow, except to float16, in which they overflow.
        Raises ModelNotFoundError, WeightsError, PrecisionError, or SettingsError for an absent device.
        """
        device = choose_device(device)
        settings = load_settings(path)
        if settings.solver == "scm":
            what = "is a SANA-Sprint model, whose sampler this version does not have: take sana-1.5-1.6b"
            raise SettingsError(f"{settings.name} {what}.")
        others = "auto" if dtype in ("float16", "fp16", torch.float16) else dtype
        return cls(
            load_transformer(path, device=device, dtype=dtype),
            load_autoencoder(path, part="decoder", device=device, dtype=others),
            load_text_encoder(path, device=device, dtype=others),
            settings,
        )

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        *,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        num_images: int = 1,
        solver: str | None = None,
        latents: Tensor | None = None,
        output: Output = "pil",
        binned: bool = True,
    ) -> Result:
        """Draw pictures of one prompt or several, all in one batch. None: the model's own default.

        prompt: what to draw; "" draws anything. negative_prompt: what not to draw; needs guidance > 1.
        width, height: pixels, multiples of 32 from 64 to 4096; with bins any number in that range.
        steps: 1 to 1000. guidance: >= 0; 1 and below turn it off, which halves the work.
        seed: >= 0; picture j of prompt p is drawn from seed + p * num_images + j, so each picture is the same
        alone and in a batch. None: a random seed, which the result tells. num_images: of each prompt.
        solver: "dpm" or "euler". latents: the noise, B C h w, instead of the seed's.
        output: "pil", "pt" (B 3 H W in [-1, 1]) or "latent" (B C h w; of the bin's size if there are bins).
        binned: the published models learned some forty shapes each: draw in the nearest one, then scale and
        cut to the asked size. Other models, like pocket, have no bins.
        Raises SettingsError, SizeError, NumericsError, or MemoryLimitError; where only decoding failed, that
        has the denoised latents in its attribute `latents`: pass them to `decode`.
        """
        for step in self.stream(
            prompt,
            negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            seed=seed,
            num_images=num_images,
            solver=solver,
            latents=latents,
            output=output,
            binned=binned,
        ):
            result = step.result
        return result  # pyright: ignore - there is a last step and it has one

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        *,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        num_images: int = 1,
        solver: str | None = None,
        latents: Tensor | None = None,
        output: Output = "pil",
        binned: bool = True,
    ) -> Iterator[Step]:
        """Draw as `__call__` does, giving each `Step` when it is done; the last one carries the result.

        Settings are checked at once; the work begins when the first step is asked for.
        """
        # 1 settings: the caller's words, else the model's own
        own, compression = self.settings, self.autoencoder.config.compression
        width = own.width if width is None else width
        height = own.height if height is None else height
        steps = own.steps if steps is None else steps
        guidance = own.guidance if guidance is None else guidance
        solver = own.solver if solver is None else solver
        seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
        prompts = _checked_prompts(prompt, negative_prompt)
        count = len(prompts) * _whole("num_images", num_images, 1, MAX_IMAGES // len(prompts))
        seed = _whole("seed", seed, 0, MAX_SEED)
        seeds = list(range(seed, seed + count)) if latents is None else []
        if isinstance(guidance, bool) or not isinstance(guidance, int | float):
            raise SettingsError(f"guidance = {guidance!r}, but it must be a number; 4.5 is usual.")
        check_scale(guidance)
        if output not in ("pil", "pt", "latent"):
            raise SettingsError(f'output = {output!r}, but it must be "pil", "pt" or "latent".')
        sample_size = self.transformer.config.sample_size
        drawn = drawn_size(width, height, sample_size=sample_size, compression=compression, binned=binned)
        cells = (self.transformer.config.latent_channels, drawn[0] // compression, drawn[1] // compression)
        if latents is not None:
            _check_latents(latents, (count, *cells))
        sampler = _sampler(solver, steps, own.flow_shift)
        shared = {"negative_prompt": negative_prompt, "width": width, "height": height, "steps": steps}
        shared |= {"guidance": float(guidance), "solver": solver, "model": own.name, "version": __version__}
        metadata = [{"prompt": text, **shared} for text in prompts for _ in range(num_images)]
        for one, its_seed in zip(metadata, seeds, strict=False):
            one["seed"] = its_seed
        checked = Request(
            prompts=prompts,
            counts=[num_images] * len(prompts),
            negative_prompt=negative_prompt,
            guidance=float(guidance),
            solver=sampler,
            seeds=seeds,
            cells=cells,
            latents=latents,
            size=(height, width),
            output=output,
            metadata=metadata,
        )
        return self._draw(checked)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B C h w, as in `Step`) to images (B 3 H W, about [-1, 1], float32), one picture at a time.

        Raises NumericsError, or MemoryLimitError with the latents in its attribute `latents`.
        """
        weight = next(self.autoencoder.parameters())
        scaled = latents.to(weight.device, weight.dtype) / self.autoencoder.config.scaling_factor
        remedy = "the pictures are denoised: free memory and pass the error's `latents` to `decode`"
        with torch.no_grad(), _memory_limit(f"decoding: {remedy}, or draw a smaller size", latents):
            images = torch.cat([self.autoencoder.decode(one).float() for one in scaled.split(1)])
        self._check_finite(images, "The decoded picture", weight.dtype)
        return images

    def preview(self, latents: Tensor) -> Image.Image:
        """Draw one picture's latents (C h w) small and without the decoder; see `Step.preview`."""
        if self._preview_weights is None:
            config = self.autoencoder.config
            self._preview_weights = fit_preview(self.decode, config.latent_channels, config.compression)
        return draw_preview(self._preview_weights, latents)

    def _draw(self, request: Request) -> Iterator[Step]:
        weight = self.transformer.x_embedder.proj.weight
        started = perf_counter()

        # 2 text: features of each prompt, unpadded; guidance needs those of the negative prompt as well
        guided = request.guidance > 1
        features, notes = self._encode(request, guided)

        # 3 context: keys and values of every layer, once for all steps and all pictures of a prompt
        counts = [sum(request.counts)] * guided + request.counts
        context = self.transformer.prepare(features, counts)

        def velocity(latents: Tensor, t: float) -> Tensor:
            with _memory_limit("denoising: draw fewer pictures at once, or a smaller size"):
                return self.transformer.velocity(latents, t, context)

        guided_velocity = classifier_free(velocity, request.guidance) if guided else velocity

        # 4 noise: from each picture's own seed, unless the caller brought it
        noise = seeded_noise(request.seeds, request.cells) if request.latents is None else request.latents

        # 5 denoise: look where the solver says, let it go there; float32 whatever the transformer computes in
        if weight.is_cuda:
            torch.cuda.synchronize()  # for the timings; from here on, the checks for NaN wait anyway
        prepared = resumed = perf_counter()
        denoise = 0.0
        state = request.solver.start(noise.to(weight.device, torch.float32))
        while not state.done:
            towards = guided_velocity(state.sample, state.t)
            clean = clean_from_velocity(state.sample, towards.float(), state.sigma)
            state = request.solver.advance(state, towards)
            self._check_finite(state.sample, f"Step {state.index} of {state.total}", weight.dtype)
            denoise += perf_counter() - resumed  # without what the caller does between two steps
            if not state.done:
                yield Step(index=state.index, total=state.total, latents=state.sample, clean=clean, pipe=self)
            resumed = perf_counter()

        # 6 decode
        images = state.sample if request.output == "latent" else self.decode(state.sample)

        # 7 picture
        if request.output != "latent":
            images = resize_and_crop(images, *request.size).clamp(-1, 1)
        result = Result(
            images=to_pil(images) if request.output == "pil" else images,
            seeds=request.seeds,
            timings={"text": prepared - started, "denoise": denoise, "decode": perf_counter() - resumed},
            metadata=request.metadata,
            warnings=notes,
        )
        last = state.sample  # at t = 0 the sample is the clean latents
        yield Step(index=state.index, total=state.total, latents=last, clean=last, result=result, pipe=self)

    def _encode(self, request: Request, guided: bool) -> tuple[list[Tensor], list[str]]:
        """Features (L E) in the batch's order, those of the negative prompt first; and what was warned of."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            negative = self.text_encoder.encode_negative([request.negative_prompt]) if guided else []
            features = negative + self.text_encoder.encode(request.prompts)
        for warning in caught:
            warnings.warn(warning.message, warning.category, stacklevel=4)
        return features, [str(warning.message) for warning in caught]

    def _check_finite(self, values: Tensor, what: str, dtype: torch.dtype) -> None:
        if bool(torch.isfinite(values).all()):
            return
        remedy = "the weights are damaged (fetch them again), or guidance is far too high (4.5 is usual)"
        if dtype != torch.float32:
            remedy = f'load the model with dtype="float32"; its 16-bit rule is "{self.settings.precision}"'
        raise NumericsError(f"{what} gave NaN or infinity, computed in {dtype}: {remedy}.")


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """Give the device called so; "auto" is the accelerator if there is one. SettingsError if absent."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):  # torch has one for each reason
        raise SettingsError(f"There is no device {str(device)!r} here: use auto, cpu, cuda or mps.") from None


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise of each seed, (len(seeds), *shape) float32; alike for every device."""
    each = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(*shape, generator=g, device="cpu", dtype=torch.float32) for g in each])


@contextmanager
def _memory_limit(what: str, latents: Tensor | None = None) -> Iterator[None]:
    """Turn an allocation that failed into a MemoryLimitError that keeps the latents."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch: RuntimeError on a CPU, a subclass of it on a GPU
        if not isinstance(error, MemoryError) and not re.search("allocate memory|out of memory", str(error)):
            raise
        raise MemoryLimitError(f"Out of memory while {what}.", latents) from None


def _sampler(solver: str, steps: int, shift: float) -> FlowDPM | Euler:
    if solver == "dpm":
        return FlowDPM(dpm_times(steps, shift))
    if solver == "euler":
        return Euler(euler_times(steps, shift))
    raise SettingsError(f'solver = {solver!r}, but it must be "dpm" (usual) or "euler".')


def _checked_prompts(prompt: str | Sequence[str], negative_prompt: str) -> list[str]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not 1 <= len(prompts) <= MAX_IMAGES:
        raise SettingsError(
            f"The prompt is {reprlib.repr(prompt)}; it must be a text, or a list of 1 to {MAX_IMAGES} texts."
        )
    for text in [*prompts, negative_prompt]:
        if not isinstance(text, str):
            raise SettingsError(f"A prompt is {reprlib.repr(text)}, but prompts are texts.")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise SettingsError("A prompt holds a lone surrogate: type it anew, in a terminal set to UTF-8.")
    return list(prompts)


def _whole(name: str, value: int, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise SettingsError(f"{name} = {value!r}, but it must be a whole number from {lowest} to {highest}.")
    return value


def _check_latents(latents: Tensor, shape: tuple[int, ...]) -> None:
    fits = isinstance(latents, Tensor) and latents.is_floating_point() and tuple(latents.shape) == shape
    if not fits or not bool(torch.isfinite(latents).all()):
        came = f"{latents.dtype} {tuple(latents.shape)}" if isinstance(latents, Tensor) else type(latents)
        raise SettingsError(f"latents came as {came}, but they must be finite floats of the shape {shape}.")
