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

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import ClipFile
from sanakit.errors import NumericsError, SettingsError, SizeError
from sanakit.images.image import Metadata, to_levels
from sanakit.models.contracts import LatentShape, TextModel, VideoCodec
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.pipelines.control import size_like
from sanakit.pipelines.memory import MemoryPlan, memory_limit, parse_budget, stage
from sanakit.pipelines.request import MAX_SEED, whole_number
from sanakit.pipelines.video.editing.chunks import CHUNK, ChunkEditor, edited
from sanakit.pipelines.video.loading import load_parts
from sanakit.pipelines.video.memory import ClipPlanner, ClipWork, blocks_given_back
from sanakit.pipelines.video.source import source_frames
from sanakit.pipelines.video.streaming import chunk_lengths
from sanakit.text.video import with_motion
from sanakit.weights import load_settings
from sanakit.weights.settings import ModelSettings
from sanakit.weights.video.settings import MOST_MOTION

Source = VideoClip | ClipFile


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EditedFrames:
    """Some finished frames of an edited clip; stop iterating and the rest is never computed."""

    frames: np.ndarray  # T H W 3, uint8
    first: int  # number of the first of them in the clip
    total: int  # frames of the whole clip
    rate: Fraction  # frames a second
    settings: Metadata  # all it takes to edit the source again
    warnings: list[str]  # what the user should know, such as frames that are left out


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """One call, checked and complete."""

    prompt: str
    frames: int
    size: tuple[int, int]  # height and width in pixels
    seed: int
    rate: Fraction
    settings: Metadata
    notes: list[str]


class VideoToVideo:
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
    ) -> VideoToVideo:
        """Load a model that edits clips: a folder with transformer, vae, text_encoder and tokenizer.

        All as for `TextToVideo.from_pretrained`.
        Raises ModelNotFoundError, WeightsError, PrecisionError, or SettingsError for an absent device.
        """
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
        parts = list(
            self.stream(prompt, clip, frames=frames, width=width, height=height, seed=seed, motion=motion)
        )
        last = parts[-1]
        whole = np.concatenate([part.frames for part in parts])
        return VideoClip(frames=whole, rate=last.rate, settings=last.settings, notes=tuple(last.warnings))

    def stream(
        self,
        prompt: str,
        clip: Source,
        *,
        frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int | None = None,
        motion: int = 0,
    ) -> Iterator[EditedFrames]:
        """Yield the frames of the edited clip chunk by chunk: memory does not grow with it.

        All as for `__call__`; settings are checked at once, and the work begins with the first frames that
        are asked for.
        """
        return self._stream(clip, self._checked(prompt, clip, frames, width, height, seed, motion))

    def _checked(
        self,
        prompt: str,
        clip: Source,
        frames: int | None,
        width: int | None,
        height: int | None,
        seed: int | None,
        motion: int,
    ) -> _Call:
        """Return a call, checked and complete. Raises SettingsError or SizeError."""
        codec, config, notes = self.autoencoder.config, self.transformer.config, list[str]()
        if config.latent_channels != codec.latent_channels:
            raise SettingsError(
                f"The transformer has {config.latent_channels} latent channels, the autoencoder "
                f"{codec.latent_channels}: use both from the same model."
            )
        if self.autoencoder.encoder is None:
            raise SettingsError("This pipeline has no encoder: load the whole autoencoder.")
        if not isinstance(prompt, str):
            raise SettingsError(f"The prompt came as {type(prompt).__name__}: give one text.")
        if isinstance(clip, VideoClip):
            (down, across), there, rate = clip.frames.shape[1:3], len(clip.frames), clip.rate
            notes += clip.notes
        elif isinstance(clip, ClipFile):
            facts = clip.facts
            down, across, there = facts.height, facts.width, facts.frames
            rate = facts.rate.limit_denominator(1001)
            notes += facts.notes
        else:
            raise SettingsError(f"The clip came as {type(clip).__name__}: give a VideoClip or an open file.")
        rule = codec.frame_rule
        if frames is None:
            frames = rule.frames(1 + (there - 1) // rule.per_latent)
        frames = whole_number("frames", frames, 1, there)
        rule.latents(frames)
        if frames < there:
            notes.append(f"The first {frames} of the clip's {there} frames are edited, the others left out.")
        if (width is None) != (height is None):
            raise SettingsError("width and height go together: give both, or none.")
        if width is None or height is None:
            shape = Image.new("L", (across, down))
            width, height = size_like(shape, self.settings.width, self.settings.height, codec.compression)
        for name, side in (("width", width), ("height", height)):
            if whole_number(name, side, 1, config.max_positions * codec.compression) % codec.compression:
                raise SizeError(f"{name} = {side}, but it must be a multiple of {codec.compression}.")
        seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
        seed, motion = whole_number("seed", seed, 0, MAX_SEED), whole_number("motion", motion, 0, MOST_MOTION)
        told: Metadata = {"prompt": prompt, "model": self.settings.name, "edits": "a clip", "seed": seed}
        told |= {"width": width, "height": height, "frames": frames, "motion": motion}
        return _Call(
            prompt=with_motion(prompt, motion),
            frames=frames,
            size=(height, width),
            seed=seed,
            rate=rate,
            settings=told,
            notes=notes,
        )

    def _stream(self, clip: Source, call: _Call) -> Iterator[EditedFrames]:
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

    def _work(self, call: _Call) -> ClipWork:
        """Return what planning needs to know of a call, whose chunks are given on as they come."""
        config = self.autoencoder.config
        height, width = (side // config.compression for side in call.size)
        latents = config.frame_rule.latents(call.frames)
        chunk = config.frame_rule.frames(min(latents, CHUNK + 1))
        cells = LatentShape(config.latent_channels, latents, height, width)
        return ClipWork(cells=cells, samples=1, encoded=chunk, length=CHUNK)

    @torch.no_grad()
    def _decoded(
        self, clip: Source, call: _Call, features: list[Tensor], plan: MemoryPlan
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

    def _pixels(self, clip: Source, call: _Call, latents: int) -> Iterator[Tensor]:
        """Yield the source's frames of one chunk after another, 1 3 T H W in [-1, 1]."""
        one_by_one = iter(clip.frames) if isinstance(clip, VideoClip) else clip.frames(0, call.frames)
        per_latent = self.autoencoder.config.frame_rule.per_latent
        for number, length in enumerate(chunk_lengths(latents, CHUNK)):
            count = per_latent * length - (per_latent - 1 if number == 0 else 0)
            piece = VideoClip(frames=np.stack(list(islice(one_by_one, count))), rate=call.rate)
            pixels = source_frames(piece, count, call.size, call.notes if number == 0 else [])
            yield pixels.to(self.device, self.autoencoder.dtype)
