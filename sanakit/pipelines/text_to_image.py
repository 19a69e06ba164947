"""Prompt to image, in seven numbered steps.

1 settings: the caller's, else the model's (request)             2 text: prompts to features (text/encoder)
3 context: features to every layer's keys and values, once       4 noise: from each image's own seed
5 denoise: velocity, guidance, solver, step after step           6 decode: latents to pixels (models/dc_ae)
7 image: cropped to the requested size, with all settings to draw it again
`_draw` runs them in order; a server runs the same steps for many requests at once.

Source: SANA (arXiv:2410.10629); diffusers' SanaPipeline draws the same from the same weights and noise.
Shapes: B images (prompts x num_images, prompt after prompt), C h w latents, H W pixels.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Unpack

import torch
from PIL import Image
from torch import Tensor

from sanakit.adapters.pipeline import Adaptable, AdapterChoices, open_adapters
from sanakit.arguments import check_arguments
from sanakit.dialect import Dialect
from sanakit.errors import MemoryLimitError, SettingsError
from sanakit.images.image import draw_preview, fit_preview, resize_and_crop, to_levels, to_pil
from sanakit.models.compiled import compile_sampling
from sanakit.models.contracts import Codec, LatentShape, TextModel, VelocityModel
from sanakit.models.controlnet import ControlNet
from sanakit.models.sana import has_blocks
from sanakit.pipelines.control import Conditioned, Controls
from sanakit.pipelines.denoise import Batch, begin, encode_source
from sanakit.pipelines.memory import (
    MemoryPlan,
    Planner,
    available_bytes,
    choose_device,
    in_bands_that_fit,
    memory_limit,
    parse_budget,
    result_bytes,
    stage,
)
from sanakit.pipelines.request import DrawSettings, ModelSpec, Request, check_request
from sanakit.pipelines.result import LastStep, Output, Result, Step, check_finite, result_of
from sanakit.text.prompt_weights import weigh
from sanakit.weights import load_image_autoencoder, load_settings, load_text_encoder, load_transformer
from sanakit.weights.about.loaded import Loaded
from sanakit.weights.control import load_controlnets
from sanakit.weights.fingerprint import first_digits
from sanakit.weights.known_things import unknown_prompts
from sanakit.weights.settings import ModelSettings


class TextToImage(Loaded, Adaptable, Conditioned):
    """A model that draws images of prompts.

    transformer, autoencoder (its decoder will do), text_encoder, settings: the parts and their defaults.
    device: where they compute; None: the transformer's device. memory: see `from_pretrained`. controlnets:
    one for all control images of a call, or one for each.
    """

    def __init__(
        self,
        transformer: VelocityModel,
        autoencoder: Codec,
        text_encoder: TextModel,
        settings: ModelSettings,
        *,
        device: torch.device | None = None,
        memory: str | int = "auto",
        controlnets: Sequence[ControlNet] = (),
    ) -> None:
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.settings = settings
        self.controlnets = nets = list(controlnets)
        self.device = device or next(transformer.parameters()).device
        model, budget = text_encoder.model, parse_budget(memory)
        self._memory = Planner(transformer, autoencoder, model, *nets, device=self.device, budget=budget)
        self._preview_weights: Tensor | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        memory: str | int = "auto",
        encoder: bool = False,
        plan: str | None = None,
        compile: bool = False,
        adapters: AdapterChoices = (),
        control_model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        **unknown: object,
    ) -> TextToImage:
        """Load a model: catalog name, diffusers folder, .safetensors or .pth file, or Hub "org/repo".

        device: "auto" uses the accelerator if there is one. dtype: of the transformer; "auto": the one it was
        trained for. Autoencoder and text encoder follow, except to float16, in which they overflow.
        memory: limit of the whole process (on an accelerator: of weights and work there): a size such as
        "4GB", or bytes. "auto": all available memory; each part of a large model is unloaded after its stage.
        "all": everything stays loaded, which saves reloading for the next image.
        encoder: also load the autoencoder's encoder, needed to start from an image.
        plan: quantise transformer and text encoder while loading, such as by "int8" (`quant.plans.PLANS`).
        compile: compile the transformer's blocks in the first steps; takes minutes, meant for GPUs.
        adapters: LoRA files and their weights, as for `load_adapter`; checked before weights are read.
        control_model: ControlNets (`weights.load_controlnet`); None: the model's own, if it has one.
        Raises ModelNotFoundError, WeightsError, PrecisionError, or SettingsError for an absent device.
        """
        check_arguments(unknown)
        device, budget = choose_device(device), parse_budget(memory)
        settings, opened = load_settings(path), open_adapters(path, adapters)
        others = "auto" if dtype in ("float16", "fp16", torch.float16) else dtype
        mapped = device.type == "cpu" and dtype in ("auto", "float32", "fp32", torch.float32)
        held: dict[str, Any] = {"device": device, "mapped": mapped, "home": "cpu"}
        where: dict[str, Any] = held | {"plan": plan}
        transformer = load_transformer(path, kind="image", dtype=dtype, **where)
        nets = load_controlnets(path, control_model, transformer, **where)
        part = "both" if encoder or nets else "decoder"
        decoder = load_image_autoencoder(path, part=part, dtype=others, **held)
        text = load_text_encoder(path, dtype=others, **where)
        parts = (transformer, decoder, text.model, *nets)
        if device.type != "cpu":  # parts that do not fit together wait outside, and come in for their stage
            free = available_bytes(device) if isinstance(budget, str) else budget
            size = sum(tensor.nbytes for part in parts for tensor in part.state_dict().values())
            if budget == "all" or size < 0.8 * free:
                for part in parts:
                    part.to(device)
        shared = {"device": device, "memory": budget}
        pipe = cls(transformer, decoder, text, settings, **shared, controlnets=nets)
        pipe.fingerprint = first_digits(path)
        pipe.load_opened(opened)
        if compile:
            compile_sampling(transformer, device)
        return pipe

    @property
    def spec(self) -> ModelSpec:
        """The facts about the model that checking a call needs."""
        spec = ModelSpec.of(self.settings, self.transformer.config, self.autoencoder.config)
        spec = spec if has_blocks(self.transformer) else replace(spec, depth=0)
        beside = {"nets": self.nets, "controlnets": len(self.controlnets), "fingerprint": self.fingerprint}
        return replace(spec, adapters=self.adapted_by, **beside)

    def __call__(
        self,
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
        **others: object,
    ) -> Result:
        """Draw images of one or several prompts in one batch. None means the model's default.

        prompt: "" draws anything. negative_prompt: content to avoid, one for all prompts or one for each;
        needs guidance > 1; SANA-Sprint models take none.
        width, height: pixels, multiples of 32 from 64 to 4096; with bins any number in that range.
        steps: 1 to 1000. guidance: >= 0; values up to 1 turn it off, which halves the work.
        guidance_kind: such as "apg,interval=0.2-0.9", see `flow/guidance_kinds.py`.
        seed: >= 0; image j of prompt p uses seed + p * num_images + j, so it is the same alone and in a
        batch. None: a random seed, stated in the result. num_images: per prompt.
        solver: "dpm" or "euler"; for SANA-Sprint models "scm". latents: initial noise, B C h w, instead of
        the seed's; noise that "scm" adds later still comes from the seed.
        output: "pil", "pt" (B 3 H W in [-1, 1]) or "latent" (B C h w; of the bin's size if there are bins).
        binned: draw at the nearest size that the model learned (published models: some forty; others: those
        listed in their folder), then scale and crop to the requested size.
        dialect: "diffusers" (usual) or "native", as NVIDIA's own scripts draw; see docs/dialects.md.
        prompt_weights: read "a (red:1.5) apple" as weights, see `text/prompt_weights.py`.
        control: ControlImages that steer it through ControlNets; one tells the shape if no size is given.
        Raises SettingsError, SizeError, NumericsError, or MemoryLimitError. If only decoding failed, its
        attribute `latents` has the denoised latents: pass them to `decode`.
        """
        settings: DrawSettings = {"steps": steps, "guidance": guidance, "seed": seed, "solver": solver}
        settings |= {"num_images": num_images, "latents": latents, "output": output}
        settings |= {"binned": binned, "dialect": dialect, "guidance_kind": guidance_kind}
        settings |= {"control": control, "prompt_weights": prompt_weights}
        stream = self.stream(prompt, negative_prompt, width=width, height=height, **settings, **others)
        return result_of(deque(stream, maxlen=1).pop())  # one step is kept at a time

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        width: int | None = None,
        height: int | None = None,
        **settings: Unpack[DrawSettings],
    ) -> Iterator[Step]:
        """Yield each `Step` of `__call__` when it is done; the last one carries the result.

        Settings are checked at once; the work begins with the first step requested.
        """
        # 1 settings: the caller's words, else the model's own
        request = check_request(self.spec, prompt, negative_prompt, width=width, height=height, **settings)
        return self.draw(request)

    def draw(self, request: Request) -> Iterator[Step]:
        """Yield the steps of a checked request of any task, as `stream` does.

        Raises at once: MemoryLimitError, or SettingsError for an initial image without the encoder.
        """
        if request.conditions.encoded and self.autoencoder.encoder is None:
            raise SettingsError("This pipeline was loaded without the encoder: load it with encoder=True.")
        return self._draw(request, self.plan(request))

    def plan(self, request: Request, samples: int | None = None) -> MemoryPlan:
        """Return the plan for a request within the budget. samples: in its batch; None: as many as requested.

        Raises MemoryLimitError.
        """
        compression = self.autoencoder.config.compression
        drawn = (request.cells.height * compression, request.cells.width * compression)
        results = request.num_images * result_bytes(request.output, drawn, request.size)
        samples = request.num_images if samples is None else samples
        return self._memory.plan(request.cells, samples * request.branches, results)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B C h w, as in `Step`) to images (B 3 H W, about [-1, 1], float32), one at a time.

        Raises NumericsError, or MemoryLimitError with the latents in its attribute `latents`.
        """
        size = [side * self.autoencoder.config.compression for side in latents.shape[2:]]
        images = torch.empty(len(latents), 3, *size, dtype=torch.float32, device=self.device)

        def put(number: int, top: int, rows: Tensor) -> None:
            images[number, :, top : top + rows.shape[1]] = rows

        self._decode(latents, put)
        return images

    def preview(self, latents: Tensor) -> Image.Image:
        """Draw one image's latents (C h w) small and without the decoder; see `Step.preview`."""
        if self._preview_weights is None:
            config = self.autoencoder.config
            self._preview_weights = fit_preview(self.decode, config.latent_channels, config.compression)
        return draw_preview(self._preview_weights, latents)

    def encode(
        self, prompts: Sequence[str], nulls: Sequence[str], plan: MemoryPlan, dialect: Dialect | None = None
    ) -> tuple[list[Tensor], list[str]]:
        """Return features (L E) of the negative prompts, then of the prompts; and notes on these."""
        self.text_encoder.after_layer = plan.after_layer
        notes: list[str] = []
        dialect = dialect or self.settings.dialect
        features = self.text_encoder.encode_negative(nulls, notes, dialect)
        features += self.text_encoder.encode(prompts, notes, dialect)
        # Adapters may have taught it what is asked for.
        unknown = [] if self.adapted_by else unknown_prompts(self.settings, prompts, self.text_encoder)
        return features, notes + unknown

    def encoded(self, pixels: Tensor) -> Tensor:
        """Return the scaled latents, 1 C h w, of pixels, 1 3 H W in [-1, 1]."""
        latents = encode_source(self.autoencoder, pixels, self.device)
        self.check_finite(latents, "The encoded image", self.autoencoder.dtype)
        return latents

    def _draw(self, request: Request, plan: MemoryPlan) -> Iterator[Step]:
        started = perf_counter()

        # 2 text: features of each prompt, unpadded; guidance needs those of the negative prompt as well
        with stage(self.text_encoder.model, plan, self.device):
            nulls = [null.text for null in request.nulls]
            features, told = self.encode(request.prompts, nulls, plan, request.dialect)
            weights = weigh(self.text_encoder, request.texts, request.nulls, told, request.dialect)
        for note in (notes := [*request.notes, *told]):
            warnings.warn(note, stacklevel=3)

        known, model = None, self.transformer
        if request.conditions.encoded:
            with stage(self.autoencoder, plan, self.device):
                known, model = self.encode_source(request.conditions), self.steered(request.conditions)

        with stage(model, plan, self.device):
            # 3 context, 4 noise
            batch = Batch(model, begin(model, request, features, known, weights=weights))

            # 5 denoise: look where the solver says, let it go there; float32 whatever the model computes in
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # for the timings; from here on, the checks for NaN wait anyway
            prepared = resumed = perf_counter()
            denoise = 0.0
            state = batch.samples[0].state
            while not state.done:
                self.check_unchanged(request.metadata[0].get("adapters"))
                batch.step(plan.after_block)
                state = batch.samples[0].state
                self.check_finite(
                    batch.latents, f"Step {state.index} of {state.total}", self.transformer.dtype
                )
                denoise += perf_counter() - resumed  # without what the caller does between two steps
                if not state.done:
                    now, clean = batch.latents, batch.clean
                    yield Step(
                        index=state.index, total=state.total, latents=now, clean=clean, draw=self.preview
                    )
                resumed = perf_counter()

        # 6 decode, 7 image
        last = batch.latents  # at t = 0 the sample is the clean latents
        images = last if request.output == "latent" else self.images(last, request)
        result = Result(
            images=images,
            seeds=request.seeds,
            timings={"text": prepared - started, "denoise": denoise, "decode": perf_counter() - resumed},
            metadata=request.metadata,
            warnings=notes,
        )
        yield LastStep(
            index=state.index, total=state.total, latents=last, clean=last, draw=self.preview, drawn=result
        )

    def images(self, latents: Tensor, request: Request) -> list[Image.Image] | Tensor:
        """Decode latents (B C h w) to a request's images, "pil" or "pt", in the requested size.

        If that is the drawn size, they never exist in more than 8 bits.
        """
        drawn = tuple(side * self.autoencoder.config.compression for side in latents.shape[2:])
        image = request.conditions.image
        size = request.size if image is None else drawn
        if request.output == "pt" or drawn != size:
            images = resize_and_crop(self.decode(latents), *size).clamp(-1, 1)
            return to_pil(images) if request.output == "pil" else images
        levels = torch.empty(len(latents), *drawn, 3, dtype=torch.uint8)

        def put(number: int, top: int, rows: Tensor) -> None:
            levels[number, top : top + rows.shape[1]] = to_levels(rows[None])[0]

        self._decode(latents, put)
        images = [Image.fromarray(pixels.numpy()) for pixels in levels]
        return images if image is None else [image.finish(one) for one in images]

    def _decode(self, latents: Tensor, put: Callable[[int, int, Tensor], None]) -> None:
        """Hand over each image's rows as they are decoded: image number, first row, 3 h W float32."""
        cells = LatentShape.image(*latents.shape[1:])
        try:
            plan, dtype = self._memory.plan(cells, 0), self.autoencoder.dtype
        except MemoryLimitError as refusal:
            raise MemoryLimitError(str(refusal), latents) from None
        scaled = latents.to(self.device, dtype) / self.autoencoder.config.scaling_factor
        remedy = "the images are denoised: free memory and pass the error's `latents` to `decode`"

        def draw(number: int, band: float) -> None:
            with memory_limit(f"decoding: {remedy}, or draw a smaller size", latents):
                top = 0
                for rows in self.autoencoder.decode_rows(scaled[number:][:1], band):
                    self.check_finite(rows, "The decoded image", dtype)
                    put(number, top, rows[0].float())
                    top += rows.shape[2]

        with stage(self.autoencoder, plan, self.device):
            in_bands_that_fit(draw, len(latents), plan.band)

    def check_finite(self, values: Tensor, what: str, dtype: torch.dtype) -> None:
        """Raise NumericsError, with a remedy, if values computed in a dtype are not all finite."""
        check_finite(values, what, dtype, self.settings.precision, self.settings.guidance)
