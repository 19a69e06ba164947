"""The defaults of a video model: those that it shares with models of images, and those of clips alone.

A folder's sanakit.json may say them under "defaults": frames, fps, negative_prompt, motion; and chunks, of
causal models alone. Where it does not, those of the published SANA-Video and LongSANA models hold, of worlds
those of SANA-WM.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import torch

from sanakit.clips.counts import as_rate
from sanakit.clips.sizes import usual_size
from sanakit.dialect import USUAL, Dialect
from sanakit.errors import SettingsError, SizeError, WeightsError
from sanakit.flow.euler import Euler
from sanakit.flow.few_step import LONG_SANA_CHUNK, LONG_SANA_SHIFT, LONG_SANA_TIMES, FewStep
from sanakit.flow.solver import Solver
from sanakit.models.contracts import VideoCodecConfig
from sanakit.models.sana import SanaConfig
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.video.frame_rule import FrameRule
from sanakit.models.video.sana_video import SanaVideoConfig, VideoConfig
from sanakit.models.video.sana_video2 import SanaVideo2Config
from sanakit.models.world.config import SanaWMConfig
from sanakit.text.video import NEGATIVE_PROMPT
from sanakit.weights.find.resolve import OURS, ModelSource, resolve
from sanakit.weights.layouts.parts import transformer_config
from sanakit.weights.layouts.video_vae import open_video_vae
from sanakit.weights.settings import ModelSettings, load_settings

FRAMES, RATE = 81, Fraction(16)  # of the published models: five seconds
VIDEO2_FRAMES, VIDEO2_RATE, VIDEO2_MOTION = 193, Fraction(24), 20  # of SANA-Video 2.0: eight seconds
MOTION: dict[Dialect, int] = {"diffusers": 30, "native": 10}  # as documented; the default of the scripts
ClipConfig = SanaVideoConfig | SanaVideo2Config
MOST_FRAMES, MOST_MOTION = 2**20, 100
MOST_SHIFT = 100.0  # of the few times
WORLD_FRAMES = 161  # of SANA-WM: ten seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkSettings:
    """How a causal model draws its chunks, those of LongSANA unless its folder says others.

    length: latent frames of a chunk. times: that a distilled model knows, descending in (0, 1]; None: the
    model is not distilled, and the usual solver and guidance draw it. shift: of the few times, with fresh
    noise between them (`flow/few_step.py`); None: Euler's steps from each time to the next, as SANA-WM.
    """

    length: int = LONG_SANA_CHUNK
    times: tuple[float, ...] | None = LONG_SANA_TIMES
    shift: float | None = LONG_SANA_SHIFT

    def solver(self, times: Sequence[float]) -> Solver:
        """Return what draws a distilled model at the few times. Raises SettingsError."""
        if self.shift is not None:
            return FewStep(times, self.shift)
        return Euler(torch.tensor([*times, 0.0], dtype=torch.float64, device="cpu"))


# SANA-WM's student: three latents, 24 frames, at LongSANA's four times.
WORLD_CHUNKS = ChunkSettings(length=3, shift=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSettings:
    """A video model's defaults; the caller's settings override each."""

    shared: ModelSettings  # steps, guidance, size, solver, shift, ...
    frames: int = FRAMES
    rate: Fraction = RATE  # frames a second
    negative_prompt: str = NEGATIVE_PROMPT
    chunks: ChunkSettings = ChunkSettings()  # of causal models
    motion: int | None = None  # score behind each prompt, 0 for none; None: that of the dialect, see `score`

    def score(self, dialect: Dialect = USUAL) -> int:
        """Return the motion score that is put behind prompts in a dialect."""
        return MOTION[dialect] if self.motion is None else self.motion


def load_video_settings(path: str | os.PathLike[str]) -> VideoSettings:
    """Return the defaults of a video model; only headers and configurations are read.

    path: as for `load_transformer`. Raises as that does, and WeightsError for a model of images.
    """
    source = resolve(path, ("transformer", "vae", "scheduler"), makes="clips")
    config, codec = video_configs(source)
    shared, told = load_settings(path), _told(source)
    if not {"width", "height"} & told.keys():
        width, height = usual_size(config.sample_size, codec.compression * config.patch)
        shared = replace(shared, width=width, height=height)
    own = _own(source, told, codec.frame_rule)
    if isinstance(config, SanaVideo2Config):
        own = {"frames": VIDEO2_FRAMES, "rate": VIDEO2_RATE, "motion": VIDEO2_MOTION} | own
    chunks = _chunks(source, told, config, ChunkSettings())
    return VideoSettings(shared=shared, **own, chunks=chunks)


def load_world_settings(path: str | os.PathLike[str]) -> VideoSettings:
    """Return the defaults of a world model; only headers and configurations are read.

    path: as for `load_transformer`. Raises as that does, and WeightsError for other models.
    """
    source = resolve(path, ("transformer", "vae", "scheduler"), makes="worlds")
    config, codec = world_configs(source)
    told = _told(source)
    own = {"frames": WORLD_FRAMES, "negative_prompt": "", **_own(source, told, codec.frame_rule)}
    if own.pop("motion", 0):
        raise WeightsError(f"{source.path / OURS} says motion, which models of worlds do not know: omit it.")
    chunks = _chunks(source, told, config, WORLD_CHUNKS)
    return VideoSettings(shared=load_settings(path), **own, motion=0, chunks=chunks)


def load_video_configs(path: str | os.PathLike[str]) -> tuple[ClipConfig, VideoCodecConfig]:
    """Return the sizes of a video model's transformer and autoencoder without reading their weights.

    path and errors: as for `load_video_settings`.
    """
    return video_configs(resolve(path, ("transformer", "vae"), makes="clips"))


def load_world_configs(path: str | os.PathLike[str]) -> tuple[SanaWMConfig, VideoCodecConfig]:
    """Return the sizes of a world model's transformer and autoencoder without reading their weights.

    path and errors: as for `load_world_settings`.
    """
    return world_configs(resolve(path, ("transformer", "vae"), makes="worlds"))


def load_edit_configs(path: str | os.PathLike[str]) -> tuple[SanaStreamingConfig, VideoCodecConfig]:
    """Return the sizes of the transformer and the autoencoder of a model that edits clips, without weights.

    path: as for `load_transformer`. Raises as that does, and WeightsError for other models.
    """
    source = resolve(path, ("transformer", "vae"), makes="clips")
    config = _whole_config(source, "video")
    if not isinstance(config, SanaStreamingConfig):
        kind = "clips" if isinstance(config, SanaVideoConfig | SanaVideo2Config) else "images"
        kind = "worlds" if isinstance(config, SanaWMConfig) else kind
        raise WeightsError(f"{source.path} is a model of {kind}, which edits no clip: use SANA-Streaming.")
    return config, _codec_config(source)


def video_configs(source: ModelSource) -> tuple[ClipConfig, VideoCodecConfig]:
    """Return the sizes of a source's transformer and autoencoder. Raises WeightsError for one of images."""
    config = _whole_config(source, "video")
    if isinstance(config, SanaStreamingConfig):
        raise WeightsError(
            f"{source.path} edits clips and draws none of prompts: use `sana video --edit` or VideoToVideo."
        )
    if isinstance(config, SanaWMConfig):
        raise WeightsError(f"{source.path} is a model of worlds: walk with `sana world` or World.")
    if not isinstance(config, SanaVideoConfig | SanaVideo2Config):
        raise WeightsError(f"{source.path} is a model of images: draw with `sana generate` or TextToImage.")
    return config, _codec_config(source)


def world_configs(source: ModelSource) -> tuple[SanaWMConfig, VideoCodecConfig]:
    """Return the sizes of a source's transformer and autoencoder. Raises WeightsError for other models."""
    config = _whole_config(source, "world")
    if not isinstance(config, SanaWMConfig):
        kind = "clips" if isinstance(config, VideoConfig) else "images"
        raise WeightsError(f"{source.path} is a model of {kind}, which no camera path steers: use SANA-WM.")
    codec = _codec_config(source)
    if config.plucker_channels != 6 * codec.frame_rule.per_latent:
        raise WeightsError(
            f"{source.path}: the transformer takes {config.plucker_channels} Plücker coordinates, 6 for each "
            f"of {codec.frame_rule.per_latent} frames of a latent are {6 * codec.frame_rule.per_latent}. Use "
            "parts of one model."
        )
    return config, codec


def _whole_config(source: ModelSource, what: str) -> SanaConfig:
    """Return the sizes of the transformer of a whole folder. Raises WeightsError for anything else."""
    if not source.is_pipeline or source.runtime:
        raise WeightsError(
            f"{source.path} is not a {what} model's whole folder: give the folder with transformer, vae, "
            "text_encoder and tokenizer."
        )
    return transformer_config(source)


def _codec_config(source: ModelSource) -> VideoCodecConfig:
    opened = open_video_vae(source)
    if opened is None:
        raise WeightsError(f"{source.path / 'vae'} is not an autoencoder of clips that this version knows.")
    return opened.config


def _told(source: ModelSource) -> dict[str, Any]:
    """Return the defaults that a folder's sanakit.json tells; `load_settings` has checked their form."""
    return source.ours().get("defaults", {})


def _own(source: ModelSource, told: dict[str, Any], rule: FrameRule) -> dict[str, Any]:
    """Return the defaults of clips that a folder tells, checked. Raises WeightsError."""
    where, found = source.path / OURS, {}
    limits = {"frames": (1, MOST_FRAMES), "motion": (0, MOST_MOTION)}
    for name, (least, most) in limits.items():
        if name in told:
            value = told[name]
            if type(value) is not int or not least <= value <= most:
                raise WeightsError(
                    f"{where} says {name} = {value!r}; it must be a whole number, {least} to {most}."
                )
            found[name] = value
    try:
        rule.latents(found.get("frames", 1))
    except SizeError as error:
        raise WeightsError(f"{where}, frames: {error}") from None
    if "negative_prompt" in told:
        found["negative_prompt"] = told["negative_prompt"]
        if not isinstance(found["negative_prompt"], str):
            raise WeightsError(
                f"{where} says negative_prompt = {told['negative_prompt']!r}; it must be text."
            )
    if "fps" in told:
        try:
            found["rate"] = as_rate(told["fps"])
        except SettingsError as error:
            raise WeightsError(f"{where}, fps: {error}") from None
    return found


def _chunks(
    source: ModelSource,
    told: dict[str, Any],
    config: ClipConfig | SanaWMConfig,
    usual: ChunkSettings,
) -> ChunkSettings:
    """Return how a folder says that chunks are drawn, checked. Raises WeightsError."""
    where = source.path / OURS
    if "chunks" not in told:
        return usual
    if not config.causal:
        raise WeightsError(f"{where} says chunks, but its transformer is not causal: leave them out.")
    given = told["chunks"]
    known = {field.name for field in fields(ChunkSettings)}
    if not isinstance(given, dict) or not given.keys() <= known:
        raise WeightsError(
            f"{where} says chunks = {given!r}; it must be an object of {', '.join(sorted(known))}."
        )
    if "length" in given and (type(given["length"]) is not int or given["length"] < 1):
        raise WeightsError(f"{where} says length = {given['length']!r}; it must be a whole number from 1.")
    shift, times = given.get("shift", usual.shift), given.get("times", usual.times)
    if shift is not None and (not _number(shift) or not 0 < shift <= MOST_SHIFT):
        raise WeightsError(
            f"{where} says shift = {shift!r}; it must be a number above 0, up to {MOST_SHIFT:g}, or null."
        )
    if times is None:
        if "shift" in given:
            raise WeightsError(f"{where} says a shift without few times: say flow_shift, or times.")
        return replace(usual, **given)
    if not isinstance(times, list | tuple) or not all(map(_number, times)):
        raise WeightsError(f"{where} says times = {times!r}; it must be a list of numbers, or null.")
    found = replace(usual, **{**given, "times": tuple(times)})
    try:
        found.solver(times)
    except SettingsError as error:
        raise WeightsError(f"{where}, times: {error}") from None
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
