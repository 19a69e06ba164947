"""Prompt to clip, image to clip, clip to clip, on the steps that images share.

1 settings: the caller's, else the model's (request)             2 text: prompts to features (text/encoder)
3 start: the image or clip to begin with, to latents             4 noise: of the whole clip, from its own seed
5 denoise: velocity, guidance, solver, step after step           6 decode: latents to frames, some at a time
7 clips: in the requested size, with all settings to draw them again

From an image, its latent is the first frame of every step (`models/video/held_frame.py`). From a clip, the
last `strength` of the steps are done, as `pipelines/image_to_image.py` does with images.
Source: SANA-Video (arXiv:2509.24695); diffusers' SanaVideoPipeline and SanaImageToVideoPipeline draw the
same from the same weights and noise.
Shapes: B clips (prompts x num_clips, prompt after prompt), C latent channels, t h w latents, T frames, H W
pixels.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from time import perf_counter
from typing import Any, Unpack

import torch
from PIL import Image
from torch import Tensor

from sanakit.arguments import OF_CLIPS, check_arguments
from sanakit.clips.clip import VideoClip
from sanakit.dialect import Dialect
from sanakit.errors import MemoryLimitError, SettingsError
from sanakit.images.image import draw_preview, fit_preview
from sanakit.models.contracts import LatentShape, TextModel, VelocityModel, VideoCodec
from sanakit.models.sana import TextContext
from sanakit.models.video.held_frame import HeldFirstFrame, behind
from sanakit.pipelines.denoise import Batch, Sample, begin
from sanakit.pipelines.memory import memory_limit, parse_budget, stage
from sanakit.pipelines.request import Request
from sanakit.pipelines.result import check_finite
from sanakit.pipelines.video.chunk_request import joined
from sanakit.pipelines.video.chunks import ChunkSampler, ClipModel
from sanakit.pipelines.video.decoding import collect_clips, decode_frames
from sanakit.pipelines.video.in_chunks import ClipChunk, clip_chunks, going_on, samplers, steps_of, texts_of
from sanakit.pipelines.video.loading import load_parts
from sanakit.pipelines.video.memory import ClipPlan, ClipPlanner, ClipWork, blocks_given_back
from sanakit.pipelines.video.request import ClipDrawSettings, ClipRequest, VideoSpec, check_clip_request
from sanakit.pipelines.video.result import ClipOutput, ClipResult, ClipStep, LastClipStep, clips_of
from sanakit.pipelines.video.staggered import StaggeredClip
from sanakit.pipelines.video.texts import text_features
from sanakit.weights.about.loaded import Loaded
from sanakit.weights.video.settings import VideoSettings, load_video_settings


class TextToVideo(Loaded):
    """A model that draws clips of prompts.

    transformer, autoencoder (its decoder will do without images and clips to start from), text_encoder,
    settings: the parts and their defaults. device: where they compute; None: the transformer's device.
    memory: see `from_pretrained`; or what plans for the same parts already. chunk_lengths: latent frames of
    each chunk, for a transformer that sees chunks without a state: later ones begin later, one clip a call.
    Several processes draw each clip together by `pipelines.video.sharing.share_clips`.
    """

    def __init__(
        self,
        transformer: ClipModel,
        autoencoder: VideoCodec,
        text_encoder: TextModel,
        settings: VideoSettings,
        *,
        device: torch.device | None = None,
        memory: str | int | ClipPlanner = "auto",
        chunk_lengths: Sequence[int] = (),
    ) -> None:
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.settings = settings
        self.device = device or next(transformer.parameters()).device
        if not isinstance(memory, ClipPlanner):
            own: dict[str, Any] = {"patch": transformer.config.patch, "sizes": settings.shared.sizes}
            own |= {"device": self.device, "budget": parse_budget(memory)}
            memory = ClipPlanner(transformer, autoencoder, text_encoder.model, **own)
        self._memory = memory
        self._chunk_lengths = chunk_lengths
        self._preview_weights: Tensor | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        memory: str | int = "auto",
        encoder: bool = True,
        **unknown: object,
    ) -> TextToVideo:
        """Load a video model: a diffusers folder, or a Hub "org/repo" that holds one.

        device: "auto" uses the accelerator if there is one; parts that do not fit there together wait
        outside, and come in for their stage. dtype: of the transformer; "auto": the one it was trained for.
        Autoencoder and text encoder follow, except to float16, in which they overflow. memory: limit of the
        whole process (on an accelerator: of weights and work there), as for `TextToImage.from_pretrained`.
        encoder: also load the autoencoder's encoder, needed to start from an image or a clip.
        Raises ModelNotFoundError, WeightsError, PrecisionError, or SettingsError for an absent device.
        """
        check_arguments(unknown, ours=OF_CLIPS)
        settings, budget = load_video_settings(path), parse_budget(memory)
        parts = load_parts(path, "clip", device=device, dtype=dtype, memory=budget, encoder=encoder)
        return cls(*parts[:3], settings, device=parts[3], memory=budget)

    @property
    def spec(self) -> VideoSpec:
        """The facts about the model that checking a call needs."""
        return VideoSpec.of(self.settings, self.transformer.config, self.autoencoder.config)

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        frames: int | None = None,
        seconds: float | str | Fraction | None = None,
        rate: int | float | str | Fraction | None = None,
        width: int | None = None,
        height: int | None = None,
        image: Image.Image | None = None,
        clip: VideoClip | None = None,
        strength: float | None = None,
        motion: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_kind: str | None = None,
        seed: int | None = None,
        num_clips: int = 1,
        solver: str | None = None,
        latents: Tensor | None = None,
        output: ClipOutput = "clip",
        binned: bool = True,
        dialect: Dialect | None = None,
        prompt_weights: bool = False,
        **others: object,
    ) -> ClipResult:
        """Draw clips of one or several prompts in one batch. None means the model's default.

        prompt: "" draws anything. negative_prompt: content to avoid, one for all prompts or one for each;
        needs guidance > 1; None: the model's own, of published models a fixed sentence.
        frames: as many as the autoencoder can hold, 4 k + 1 for Wan 2.1, 8 k + 1 for LTX-2. seconds: instead
        of frames; the nearest such number is drawn, and told. rate: frames a second of the result; the model
        does not see it. width, height: pixels; None: the model's own, or of the image's or clip's shape.
        image: the first frame of every clip. clip: is redrawn, in its own rate unless one is given; None as
        `frames` takes those of its frames that fit, up to the model's own number. strength: of redrawing it,
        0 keeps it, 1 ignores it; 0.6.
        motion: how much moves, 1 to 100, put behind the prompt as in training; 0 puts nothing there.
        steps: 1 to 1000. guidance: >= 0; values up to 1 turn it off, which halves the work.
        guidance_kind: such as "apg,interval=0.2-0.9", see `flow/guidance_kinds.py`; without pag.
        seed: >= 0; clip j of prompt p uses seed + p * num_clips + j, so it is the same alone and in a batch.
        None: a random seed, stated in the result. num_clips: per prompt. solver: "dpm" or "euler".
        latents: initial noise, B C t h w, instead of the seed's.
        output: "clip", "pt" (B 3 T H W in [-1, 1]) or "latent" (B C t h w, of the drawn size).
        binned: draw at the nearest size that the model learned, told if it is another, then scale and crop to
        the requested size; False: at the requested size, whose sides must be multiples of its patches.
        dialect: "diffusers" (usual) or "native"; see docs/dialects.md.
        prompt_weights: read "a (red:1.5) apple" as weights, see `text/prompt_weights.py`.
        Raises SettingsError, SizeError, NumericsError, or MemoryLimitError. If only decoding failed, its
        attribute `latents` has the denoised latents: pass them to `decode`.
        """
        settings: ClipDrawSettings = {"frames": frames, "seconds": seconds, "rate": rate, "width": width}
        settings |= {"height": height, "image": image, "clip": clip, "strength": strength, "motion": motion}
        settings |= {"steps": steps, "guidance": guidance, "guidance_kind": guidance_kind, "seed": seed}
        settings |= {"num_clips": num_clips, "solver": solver, "latents": latents, "output": output}
        settings |= {"binned": binned, "dialect": dialect, "prompt_weights": prompt_weights}
        return clips_of(deque(self.steps(prompt, negative_prompt, **settings, **others), maxlen=1).pop())

    def steps(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        **settings: Unpack[ClipDrawSettings],
    ) -> Iterator[ClipStep]:
        """Yield each `ClipStep` of `__call__` when it is done; the last one carries the result.

        Settings are checked at once; the work begins with the first step requested.
        """
        return self.draw(check_clip_request(self.spec, prompt, negative_prompt, **settings))

    def draw(self, request: ClipRequest) -> Iterator[ClipStep]:
        """Yield the steps of a checked request, as `steps` does.

        Raises at once: MemoryLimitError, or SettingsError for an image or clip without the encoder.
        """
        if request.chunks is not None:
            return steps_of(self.chunks(request), request)
        self._check_encoder(request)
        return self._draw(request, self.plan(request))

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | None = None,
        *,
        after: Sequence[ClipChunk] = (),
        **settings: Unpack[ClipDrawSettings],
    ) -> Iterator[ClipChunk]:
        """Yield one clip chunk by chunk as it is drawn, by a causal model: memory does not grow with it.

        prompt: for the clip, or one for each chunk, the last of which is for all that follow; "<split>" in a
        text parts them, too. after: all chunks of a clip, to go on behind the last of them; frames then are
        of both together, and without a seed its random numbers go on. settings: of `__call__`, for one clip.
        All is checked at once. Raises as `__call__` does, and SettingsError for a model that is not causal.
        """
        self.spec.check_causal()
        if settings.get("num_clips", 1) != 1:
            raise SettingsError("A stream is of one clip: leave num_clips out, or call the pipeline.")
        request = check_clip_request(self.spec, joined(prompt), negative_prompt, **settings)
        return self.chunks(going_on(request, after, settings.get("seed")) if after else request)

    def chunks(self, request: ClipRequest) -> Iterator[ClipChunk]:
        """Yield the chunks of a checked request, clip after clip, as `stream` does."""
        self.spec.check_causal()
        self._check_encoder(request)
        return self._chunks(request, self.plan(request))

    def first_sampler(
        self, request: ClipRequest, plan: ClipPlan
    ) -> tuple[ChunkSampler, TextContext, list[str]]:
        """Return what draws a causal request's first clip, its first prompt, and notes for the user."""
        features, weights, notes = self._texts(request, texts_of(request), plan)
        with stage(self.transformer, plan, self.device):
            each = samplers(self.transformer, request, features, weights, plan.after_block)
        sampler, prompts = each[0]
        return sampler, prompts[0], notes

    def _check_encoder(self, request: ClipRequest) -> None:
        if request.encoded and self.autoencoder.encoder is None:
            raise SettingsError("This pipeline was loaded without the encoder: load it with encoder=True.")

    def plan(self, request: ClipRequest) -> ClipPlan:
        """Return the plan for a request within the budget, see `pipelines/video/memory.py`.

        Raises MemoryLimitError.
        """
        return self._memory.plan(ClipWork.of(request))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B C t h w, as in `ClipStep`) to clips (B 3 T H W in [-1, 1], float32).

        Raises NumericsError, or MemoryLimitError with the latents in its attribute `latents`.
        """
        return torch.stack(
            [torch.cat([*self._decoded(latents, number)], dim=1) for number in range(len(latents))]
        )

    def preview(self, latents: Tensor) -> Image.Image:
        """Draw one frame's latents (C h w) small and without the decoder; see `ClipStep.preview`."""
        if self._preview_weights is None:
            config = self.autoencoder.config
            self._preview_weights = fit_preview(
                lambda frames: self.decode(frames[:, :, None])[:, :, 0],
                config.latent_channels,
                config.compression,
            )
        return draw_preview(self._preview_weights, latents)

    def encode(self, clip: Tensor) -> Tensor:
        """Return the normalised latents (1 C t h w) of a clip (1 3 T H W). Raises MemoryLimitError."""
        codec = self.autoencoder
        limit = memory_limit("encoding the start: take a smaller size, or fewer frames")
        with limit, blocks_given_back(), torch.no_grad():
            latents = codec.normalise(codec.encode(clip.to(self.device, codec.dtype))).float()
        self._check(latents, "The encoded start", codec.dtype)
        return latents

    def _draw(self, request: ClipRequest, plan: ClipPlan) -> Iterator[ClipStep]:
        started, sampling = perf_counter(), request.sampling

        # 2 text: features of the negative prompts, then of the prompts, unpadded
        features, weights, notes = self._texts(request, sampling, plan)
        for note in notes:
            warnings.warn(note, stacklevel=3)

        # 3 start: what all clips begin with, or are redrawn from
        first = source = None
        if request.encoded:
            with stage(self.autoencoder, plan, self.device):
                first = None if request.first is None else self.encode(request.first)
                source = None if request.source is None else self.encode(request.source)

        with stage(self.transformer, plan, self.device):
            # 4 noise, and the prompts' keys and values
            begun, lengths = self._begin(request, features, weights, first, source), self._chunk_lengths
            batch = StaggeredClip(*begun, lengths=lengths) if lengths else Batch(*begun)

            # 5 denoise
            prepared = resumed = perf_counter()
            denoise, (index, total) = 0.0, batch.progress
            while index < total:
                batch.step(plan.after_block)
                index, total = batch.progress
                self._check(batch.latents, f"Step {index} of {total}", self.transformer.dtype)
                denoise += perf_counter() - resumed  # without what the caller does between two steps
                if index < total:
                    now, clean = (behind(first, frames) for frames in (batch.latents, batch.clean))
                    yield ClipStep(index=index, total=total, latents=now, clean=clean, draw=self.preview)
                resumed = perf_counter()

        # 6 decode, 7 clips
        last = behind(first, batch.latents)  # at t = 0 the sample is the clean latents
        clips = last if request.output == "latent" else self.clips(last, request)
        result = ClipResult(
            clips=clips,
            seeds=sampling.seeds,
            timings={"text": prepared - started, "denoise": denoise, "decode": perf_counter() - resumed},
            metadata=request.metadata,
            warnings=notes,
        )
        yield LastClipStep(
            index=index, total=total, latents=last, clean=last, draw=self.preview, drawn=result
        )

    def _chunks(self, request: ClipRequest, plan: ClipPlan) -> Iterator[ClipChunk]:
        codec = self.autoencoder
        features, weights, notes = self._texts(request, texts_of(request), plan)
        for note in notes:
            warnings.warn(note, stacklevel=3)
        with (
            stage(self.transformer, plan, self.device),
            stage(codec, plan, self.device),
            blocks_given_back(),
        ):
            first = None if request.first is None else self.encode(request.first)
            each = samplers(self.transformer, request, features, weights, plan.after_block)
            yield from clip_chunks(codec, each, request, first, notes, self.preview)

    @torch.no_grad()
    def clips(self, latents: Tensor, request: ClipRequest) -> list[VideoClip] | Tensor:
        """Decode latents (B C t h w) to a request's clips, "clip" or "pt", in the requested size."""
        return collect_clips((self._decoded(latents, number) for number in range(len(latents))), request)

    def _texts(
        self, request: ClipRequest, sampling: Request, plan: ClipPlan
    ) -> tuple[list[Tensor], list[Tensor | None], list[str]]:
        """Return features (L E) of the negative prompts, then of the prompts, their weights, and notes."""
        own, encoder = self.settings.shared, self.text_encoder
        return text_features(encoder, own, request, sampling, plan, self.device)

    def _begin(
        self,
        request: ClipRequest,
        features: Sequence[Tensor],
        weights: Sequence[Tensor | None] | None,
        first: Tensor | None,
        source: Tensor | None,
    ) -> tuple[VelocityModel, list[Sample]]:
        """Return the model of a request, and its clips at their solver's first time.

        first, source: 1 C t h w, the latents of what clips begin with, or are redrawn from.
        """
        sampling, model = request.sampling, self.transformer
        if first is None:
            return model, begin(model, sampling, features, source, weights=weights)
        noise = sampling.latents
        if noise is None:  # of the whole clip, so that its other frames have the noise that they have without
            noise = torch.stack([sampling.cells.noise(seed)[0] for seed in sampling.seeds])
        moving = replace(sampling, latents=noise[:, :, 1:], seeds=[])
        held = HeldFirstFrame(model, first)
        return held, begin(held, moving, features, None, weights=weights)

    def _decoded(self, latents: Tensor, number: int) -> Iterator[Tensor]:
        """Yield the frames of clip `number` as they are decoded, 3 T H W in [-1, 1], float32."""
        codec, cells = self.autoencoder, LatentShape(*latents.shape[1:])
        remedy = "the clips are denoised: free memory and pass the error's `latents` to `decode`"
        try:
            plan = self._memory.plan(ClipWork(cells=cells))
        except MemoryLimitError as refusal:
            raise MemoryLimitError(str(refusal), latents) from None
        with (
            memory_limit(f"decoding: {remedy}, or draw a smaller size", latents),
            stage(codec, plan, self.device),
            blocks_given_back(),
        ):
            own = latents[number:][:1].to(self.device, codec.dtype)
            for frames in decode_frames(codec, own, plan.chunk):
                self._check(frames, "The decoded clip", codec.dtype)
                yield frames[0].float()

    def _check(self, values: Tensor, what: str, dtype: torch.dtype) -> None:
        own = self.settings.shared
        check_finite(values, what, dtype, own.precision, own.guidance)
