"""Clip and prompt to edited clip, frames as they come (SANA-Streaming).

    pipe = VideoToVideo.from_pretrained(folder)
    edited = pipe("as an oil painting", clip, seed=0)          # a VideoClip
    for part in pipe.stream("as an oil painting", file): ...   # the same frames, at constant memory

1 text: the prompt to features                    2 encode: frames of the source to latents, chunk by chunk
3 edit: each chunk by a few steps (`chunks.py`)   4 decode: its latents to frames, as they are complete
A source may be a clip in memory, or an open file, of which only the frames of a chunk are read at a time.
Shapes: one clip; C channels, T frames, h w latents, H W pixels.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from sanakit.arguments import OF_EDITS, check_arguments
from sanakit.clips.clip import VideoClip
from sanakit.errors import NumericsError, SettingsError
from sanakit.images.image import Metadata, to_levels
from sanakit.models.contracts import LatentShape, TextModel, VideoCodec
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.pipelines.memory import MemoryPlan, memory_limit, parse_budget, stage
from sanakit.pipelines.video.editing.chunks import CHUNK, ChunkEditor, edited
from sanakit.pipelines.video.editing.request import ClipEditRequest, EditSettings, Source, check_edit_request
from sanakit.pipelines.video.loading import load_parts
from sanakit.pipelines.video.memory import ClipPlanner, ClipWork, blocks_given_back
from sanakit.pipelines.video.source import source_frames
from sanakit.pipelines.video.streaming import chunk_lengths
from sanakit.weights import load_settings
from sanakit.weights.about.loaded import Loaded
from sanakit.weights.settings import ModelSettings


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EditedFrames:
    """Some finished frames of an edited clip; stop iterating and the rest is never computed."""

    frames: np.ndarray  # T H W 3, uint8
    first: int  # number of the first of them in the clip
    total: int  # frames of the whole clip
    rate: Fraction  # frames a second
    settings: Metadata  # all it takes to edit the source again
    warnings: list[str]  # what the user should know, such as frames that are left out


class VideoToVideo(Loaded):
    """A model that edits clips by prompts.

    transformer: whose weights stream. autoencoder: with its encoder. text_encoder, settings: the other parts
    and their defaults. device: where they compute; None: the transformer's device. memory: see
    `from_pretrained`.
    """

    def __init__(
        self,
        transformer: SanaStreaming,
        autoencoder: VideoCodec,
        text_encoder: TextModel,
        settings: ModelSettings,
        *,
        device: torch.device | None = None,
        memory: str | int = "auto",
    ) -> None:
        self.transformer = transformer
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.settings = settings
        self.device = device or next(transformer.parameters()).device
        self._memory = ClipPlanner(
            transformer,
            autoencoder,
            text_encoder.model,
            patch=transformer.config.patch,
            sizes=(),
            device=self.device,
            budget=parse_budget(memory),
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        memory: str | int = "auto",
        **unknown: object,
    ) -> VideoToVideo:
        """Load a model that edits clips: a folder with transformer, vae, text_encoder and tokenizer.

        All as for `TextToVideo.from_pretrained`.
        Raises ModelNotFoundError, WeightsError, PrecisionError, or SettingsError for an absent device.
        """
        check_arguments(unknown, ours=OF_EDITS)
        settings, budget = load_settings(path), parse_budget(memory)
        parts = load_parts(path, "edit", device=device, dtype=dtype, memory=budget, encoder=True)
        return cls(*parts[:3], settings, device=parts[3], memory=budget)

    def __call__(
        self,
        prompt: str,
        clip: Source,
        *,
        frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int | None = None,
        motion: int = 0,
        **others: object,
    ) -> VideoClip:
        """Edit a clip. None means the model's default.

        prompt: what the clip shows when it is edited. clip: in memory, or an open file. frames: of its first
        ones; None: as many as the autoencoder can hold, the others are left out. width, height: pixels, to
        which frames are scaled and cropped, multiples of a latent's; None: of the clip's shape and about the
        model's own area. seed: >= 0; None: a random one, stated in the result. motion: score put behind the
        prompt, 1 to 100; 0 puts nothing there.
        Returns the edited clip in the source's rate, with its settings and notes. Raises SettingsError,
        SizeError, NumericsError or MemoryLimitError.
        """
        settings: EditSettings = {"frames": frames, "width": width, "height": height, "seed": seed}
        settings |= {"motion": motion}
        parts = list(self.stream(prompt, clip, **settings, **others))
        last = parts[-1]
        whole = np.concatenate([part.frames for part in parts])
        return VideoClip(frames=whole, rate=last.rate, settings=last.settings, notes=tuple(last.warnings))

    def stream(self, prompt: str, clip: Source, **settings: Unpack[EditSettings]) -> Iterator[EditedFrames]:
        """Yield the frames of the edited clip chunk by chunk: memory does not grow with it.

        All as for `__call__`; settings are checked at once, and the work begins with the first frames that
        are asked for.
        """
        sizes = (self.transformer.config, self.autoencoder.config)
        return self.edit(clip, check_edit_request(self.settings, *sizes, prompt, clip, **settings))

    def edit(self, clip: Source, call: ClipEditRequest) -> Iterator[EditedFrames]:
        """Yield the frames of a checked call, as `stream` does. clip: the one that was checked.

        Raises SettingsError at once for an autoencoder without its encoder.
        """
        if self.autoencoder.encoder is None:
            raise SettingsError("This pipeline has no encoder: load the whole autoencoder.")
        return self._stream(clip, call)

    def _stream(self, clip: Source, call: ClipEditRequest) -> Iterator[EditedFrames]:
        codec, notes = self.autoencoder, call.notes
        plan = self._memory.plan(self._work(call))
        with stage(self.text_encoder.model, plan, self.device):
            self.text_encoder.after_layer = plan.after_layer
            features = self.text_encoder.encode([call.prompt], notes, self.settings.dialect)
        with stage(self.transformer, plan, self.device), stage(codec, plan, self.device):
            pixels, first = self._decoded(clip, call, features, plan), 0
            for frames in pixels:
                if first == 0:
                    for note in notes:
                        warnings.warn(note, stacklevel=3)
                levels = to_levels(frames[0].float().transpose(0, 1)).numpy()
                yield EditedFrames(
                    frames=levels,
                    first=first,
                    total=call.frames,
                    rate=call.rate,
                    settings=call.settings,
                    warnings=notes,
                )
                first += len(levels)

    def _work(self, call: ClipEditRequest) -> ClipWork:
        """Return what planning needs to know of a call, whose chunks are given on as they come."""
        config = self.autoencoder.config
        height, width = (side // config.compression for side in call.size)
        latents = config.frame_rule.latents(call.frames)
        chunk = config.frame_rule.frames(min(latents, CHUNK + 1))
        cells = LatentShape(config.latent_channels, latents, height, width)
        return ClipWork(cells=cells, samples=1, encoded=chunk, length=CHUNK)

    @torch.no_grad()
    def _decoded(
        self, clip: Source, call: ClipEditRequest, features: list[Tensor], plan: MemoryPlan
    ) -> Iterator[Tensor]:
        """Yield edited frames as they are decoded, 1 3 T H W in [-1, 1]."""
        codec = self.autoencoder
        count = codec.config.frame_rule.latents(call.frames)
        prompt = self.transformer.prepare(features)
        editor = ChunkEditor(transformer=self.transformer, prompt=prompt, after_block=plan.after_block)
        sources = (
            codec.normalise(part).float() for part in codec.encode_stream(self._pixels(clip, call, count))
        )
        latents = (
            codec.denormalise(chunk).to(codec.dtype)
            for chunk in edited(editor, sources, count, seed=call.seed)
        )
        frames = codec.decode_stream(latents)
        while True:
            with memory_limit("editing a clip: take a smaller size"), blocks_given_back():
                found = next(frames, None)
            if found is None:
                return
            if not bool(torch.isfinite(found).all()):
                raise NumericsError(
                    "Edited frames became NaN or infinity: load the autoencoder in float32, or check its "
                    "weights."
                )
            yield found

    def _pixels(self, clip: Source, call: ClipEditRequest, latents: int) -> Iterator[Tensor]:
        """Yield the source's frames of one chunk after another, 1 3 T H W in [-1, 1]."""
        one_by_one = iter(clip.frames) if isinstance(clip, VideoClip) else clip.frames(0, call.frames)
        per_latent = self.autoencoder.config.frame_rule.per_latent
        for number, length in enumerate(chunk_lengths(latents, CHUNK)):
            count = per_latent * length - (per_latent - 1 if number == 0 else 0)
            piece = VideoClip(frames=np.stack(list(islice(one_by_one, count))), rate=call.rate)
            pixels = source_frames(piece, count, call.size, call.notes if number == 0 else [])
            yield pixels.to(self.device, self.autoencoder.dtype)
