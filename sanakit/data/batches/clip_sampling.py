"""How clips are sampled to train a model: its sizes, lengths and rate, or own ones that fit it.

The published models' sizes are those that they draw, eleven from 2:1 to 1:2 (`clips/sizes.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from sanakit.clips.counts import as_rate, nearest_counts
from sanakit.clips.sizes import trained_sizes
from sanakit.data.batches.buckets import training_sizes
from sanakit.data.batches.camera_paths import PosedClips
from sanakit.data.batches.clip_buckets import ClipSampling
from sanakit.data.batches.motion_score import MotionScored
from sanakit.data.medium import CLIPS
from sanakit.data.read.open import open_source
from sanakit.data.read.source import Source
from sanakit.errors import DataError, SettingsError
from sanakit.models.video.frame_rule import FrameRule
from sanakit.pipelines.video.request import VideoSpec
from sanakit.weights.find.resolve import resolve
from sanakit.weights.video.settings import load_world_configs, load_world_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipOptions:
    """A caller's choices for training clips; what is left out is the model's.

    sizes: (height, width) in pixels.   lengths: frames.   rate: frames a second.   repeat: show short clips
    more than once; else they are left out.   frame_rate: frames a second of folders of frames that do not
    say it.   motion: score behind each caption, 0 for none.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    lengths: tuple[int, ...] = ()
    rate: Fraction | int | float | str | None = None
    repeat: bool = False
    frame_rate: Fraction | int | float | str | None = None
    motion: int | None = None


def sampling_of(
    spec: VideoSpec,
    options: ClipOptions,
    resolution: int | None,
    notes: list[str],
    *,
    square: bool = False,
) -> ClipSampling:
    """Return how clips are sampled to train a model.

    resolution, square: in place of sizes, as for `training_sizes`; without any of them, the sizes that the
    model was trained at, or its own one. Lengths that make no whole number of latents are lowered to the next
    that does. notes: takes a sentence about each. Raises SettingsError for what does not fit the model.
    """
    lengths = [_fitting(length, spec.rule, notes) for length in options.lengths or [spec.settings.frames]]
    return ClipSampling(
        sizes=tuple(_sizes(spec, options.sizes, resolution, square)),
        lengths=tuple(lengths),
        rate=spec.settings.rate if options.rate is None else as_rate(options.rate),
        repeat=options.repeat,
    )


def sampled_clips(
    place: str | os.PathLike[str] | Source,
    model: str | os.PathLike[str],
    options: ClipOptions,
    resolution: int | None,
    notes: list[str],
    square: bool,
) -> tuple[Source, ClipSampling]:
    """Return the clips of a place, or of an open source, to train a model on, and how they are sampled.

    Worlds are trained at their model's own size, on clips with camera paths. All else as for `sampling_of`
    and `open_clips`.
    """
    spec, worlds = video_spec(model), is_world(model)
    if worlds and not options.sizes and resolution is None and not square:
        own = spec.settings.shared
        options = replace(options, sizes=((own.height, own.width),))
    sampling = sampling_of(spec, options, resolution, notes, square=square)
    if not isinstance(place, str | os.PathLike):
        return (place if worlds else with_score(place, spec, options)), sampling
    opened = open_paths(place, options) if worlds else open_clips(place, spec, options)
    return opened, sampling


def open_clips(place: str | os.PathLike[str], spec: VideoSpec, options: ClipOptions) -> Source:
    """Open clips to train a model, their captions with the motion score that its prompts have.

    place and errors: as for `open_source`.
    """
    rate = None if options.frame_rate is None else as_rate(options.frame_rate)
    return with_score(open_source(place, CLIPS, frame_rate=rate), spec, options)


def open_paths(place: str | os.PathLike[str], options: ClipOptions) -> PosedClips:
    """Open a folder of clips with their camera paths, to train a world on.

    Raises DataError for another place, SettingsError for choices that paths do not go with, and as
    `open_source` does.
    """
    if options.motion is not None or options.repeat:
        what = "motion score" if options.motion is not None else "repetition of short clips"
        raise SettingsError(f"Worlds know no {what}: leave it out.")
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise DataError(f"{place} is not a folder: camera paths are read beside the clips of one.")
    rate = None if options.frame_rate is None else as_rate(options.frame_rate)
    return PosedClips(open_source(place, CLIPS, frame_rate=rate), folder)


def is_world(model: str | os.PathLike[str]) -> bool:
    """Return whether a model is one of worlds. Raises what opening it raises."""
    return resolve(model, ("transformer", "vae")).makes_worlds


def video_spec(model: str | os.PathLike[str]) -> VideoSpec:
    """Return the facts about a model of clips or worlds; path and errors as for `load_transformer`."""
    if is_world(model):
        return VideoSpec.of(load_world_settings(model), *load_world_configs(model))
    return VideoSpec.read(model)


def with_score(source: Source, spec: VideoSpec, options: ClipOptions) -> Source:
    """Return a source of clips whose captions have the motion score of options, or the model's own."""
    score = spec.settings.score(spec.settings.shared.dialect) if options.motion is None else options.motion
    return MotionScored(source, score) if score else source


def _fitting(length: int, rule: FrameRule, notes: list[str]) -> int:
    """Return the valid frame count at or below a length."""
    if length < 1:
        raise SettingsError(f"A length of {length} frames is too short: it must be 1 or more.")
    frames = nearest_counts(length, rule.per_latent)[0]
    if frames != length:
        notes.append(
            f"{length} frames make no whole number of latents: {frames} are taken (1 + a multiple of "
            f"{rule.per_latent})."
        )
    return frames


def _sizes(
    spec: VideoSpec, given: Sequence[tuple[int, int]], resolution: int | None, square: bool
) -> Sequence[tuple[int, int]]:
    if given and (square or resolution is not None):
        raise SettingsError("Sizes came together with a resolution or square: choose one of them.")
    for height, width in given:
        if height % spec.unit or width % spec.unit:
            raise SettingsError(
                f"The size {width}x{height} does not fit the model: its sides must be multiples of "
                f"{spec.unit} px."
            )
    if given:
        return given
    own = spec.settings.shared
    if resolution is None and square:
        if own.width != own.height:
            raise SettingsError(f"The model's size is {own.width}x{own.height}: name a resolution, too.")
        resolution = own.width
    if resolution is not None:
        return training_sizes(resolution, square=square, multiple=spec.unit)
    known = trained_sizes(spec.sample_size) or ((own.width, own.height),)
    return [(height, width) for width, height in known]
