"""The defaults of a video model: those that it shares with models of images, and those of clips alone.

A folder's sanakit.json may say them under "defaults": frames, fps, negative_prompt, motion; and chunks, of
causal models alone. Where it does not, those of the published SANA-Video and LongSANA models hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

from sanakit.clips.counts import as_rate
from sanakit.clips.sizes import usual_size
from sanakit.dialect import USUAL, Dialect
from sanakit.errors import SettingsError, SizeError, WeightsError
from sanakit.flow.few_step import LONG_SANA_CHUNK, LONG_SANA_SHIFT, LONG_SANA_TIMES, FewStep
from sanakit.models.contracts import VideoCodecConfig
from sanakit.models.video.frame_rule import FrameRule
from sanakit.models.video.sana_video import SanaVideoConfig
from sanakit.models.world.config import SanaWMConfig
from sanakit.text.video import NEGATIVE_PROMPT
from sanakit.weights.find.resolve import OURS, ModelSource, resolve
from sanakit.weights.layouts.parts import transformer_config
from sanakit.weights.layouts.video_vae import open_video_vae
from sanakit.weights.settings import ModelSettings, load_settings

FRAMES, RATE = 81, Fraction(16)  # of the published models: five seconds
MOTION: dict[Dialect, int] = {"diffusers": 30, "native": 10}  # as documented; the default of the scripts
MOST_FRAMES, MOST_MOTION = 2**20, 100
MOST_SHIFT = 100.0  # of the few times


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkSettings:
    """How a causal model draws its chunks, those of LongSANA unless its folder says others.

    length: latent frames of a chunk. times: that a distilled model knows, descending in (0, 1]; None: the
    model is not distilled, and the usual solver and guidance draw it. shift: of the few times.
    """

    length: int = LONG_SANA_CHUNK
    times: tuple[float, ...] | None = LONG_SANA_TIMES
    shift: float = LONG_SANA_SHIFT


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
    source = resolve(path, ("transformer", "vae", "scheduler"))
    config, codec = video_configs(source)
    shared, told = load_settings(path), _told(source)
    if not {"width", "height"} & told.keys():
        width, height = usual_size(config.sample_size, codec.compression * config.patch)
        shared = replace(shared, width=width, height=height)
    return VideoSettings(
        shared=shared, **_own(source, told, codec.frame_rule), chunks=_chunks(source, told, config)
    )


def load_video_configs(path: str | os.PathLike[str]) -> tuple[SanaVideoConfig, VideoCodecConfig]:
    """Return the sizes of a video model's transformer and autoencoder without reading their weights.

    path and errors: as for `load_video_settings`.
    """
    return video_configs(resolve(path, ("transformer", "vae")))


def video_configs(source: ModelSource) -> tuple[SanaVideoConfig, VideoCodecConfig]:
    """Return the sizes of a source's transformer and autoencoder. Raises WeightsError for one of images."""
    if not source.is_pipeline or source.runtime:
        raise WeightsError(
            f"{source.path} is not a video model's whole folder: give the folder with transformer, vae, "
            "text_encoder and tokenizer."
        )
    config = transformer_config(source)
    if isinstance(config, SanaWMConfig):
        raise WeightsError(f"{source.path} is a model of worlds, which are not drawn by this version.")
    if not isinstance(config, SanaVideoConfig):
        raise WeightsError(f"{source.path} is a model of images: draw with `sana generate` or TextToImage.")
    opened = open_video_vae(source)
    if opened is None:
        raise WeightsError(f"{source.path / 'vae'} is not an autoencoder of clips that this version knows.")
    return config, opened.config


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


def _chunks(source: ModelSource, told: dict[str, Any], config: SanaVideoConfig) -> ChunkSettings:
    """Return how a folder says that chunks are drawn, checked. Raises WeightsError."""
    where = source.path / OURS
    if "chunks" not in told:
        return ChunkSettings()
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
    shift, times = given.get("shift", LONG_SANA_SHIFT), given.get("times", LONG_SANA_TIMES)
    if not _number(shift) or not 0 < shift <= MOST_SHIFT:
        raise WeightsError(
            f"{where} says shift = {shift!r}; it must be a number above 0, up to {MOST_SHIFT:g}."
        )
    if times is None:
        if "shift" in given:
            raise WeightsError(f"{where} says a shift without few times: say flow_shift, or times.")
        return ChunkSettings(**given)
    if not isinstance(times, list | tuple) or not all(map(_number, times)):
        raise WeightsError(f"{where} says times = {times!r}; it must be a list of numbers, or null.")
    try:
        FewStep(times, shift)
    except SettingsError as error:
        raise WeightsError(f"{where}, times: {error}") from None
    return ChunkSettings(**{**given, "times": tuple(times)})


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
