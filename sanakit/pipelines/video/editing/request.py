"""One call for an edited clip, checked and complete before any work begins; checking needs no weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import TypedDict

from PIL import Image

from sanakit.arguments import OF_EDITS, check_arguments
from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import ClipFile
from sanakit.errors import SettingsError, SizeError
from sanakit.images.image import Metadata
from sanakit.models.contracts import VideoCodecConfig
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.world.config import check_streams
from sanakit.pipelines.control import size_like
from sanakit.pipelines.request import MAX_SEED, whole_number
from sanakit.text.video import with_motion
from sanakit.weights.settings import ModelSettings
from sanakit.weights.video.settings import MOST_MOTION

Source = VideoClip | ClipFile


class EditSettings(TypedDict, total=False):
    """The settings of a call, as for `VideoToVideo.__call__`; left out: the model's own."""

    frames: int | None
    width: int | None
    height: int | None
    seed: int | None
    motion: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipEditRequest:
    """One call, checked and complete."""

    prompt: str
    frames: int
    size: tuple[int, int]  # height and width in pixels
    seed: int
    rate: Fraction
    settings: Metadata
    notes: list[str]


def check_edit_request(
    own: ModelSettings,
    config: SanaStreamingConfig,
    codec: VideoCodecConfig,
    prompt: str,
    clip: Source,
    *,
    frames: int | None = None,
    width: int | None = None,
    height: int | None = None,
    seed: int | None = None,
    motion: int = 0,
    **others: object,
) -> ClipEditRequest:
    """Check one call and complete it with the model's own settings; all as for `VideoToVideo.__call__`.

    own, config, codec: the model's defaults, and the sizes of its transformer and autoencoder. Raises
    SettingsError or SizeError.
    """
    check_arguments(others, EditSettings.__annotations__, OF_EDITS)
    check_streams(config.variant)
    notes: list[str] = []
    if config.latent_channels != codec.latent_channels:
        raise SettingsError(
            f"The transformer has {config.latent_channels} latent channels, the autoencoder "
            f"{codec.latent_channels}: use both from the same model."
        )
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
    if rule.latents(frames) > config.max_positions:
        raise SizeError(
            f"The clip has {frames} frames, but this model has positions for "
            f"{rule.frames(config.max_positions)}: edit fewer."
        )
    if frames < there:
        notes.append(f"The first {frames} of the clip's {there} frames are edited, the others left out.")
    if (width is None) != (height is None):
        raise SettingsError("width and height go together: give both, or none.")
    if width is None or height is None:
        shape = Image.new("L", (across, down))
        width, height = size_like(shape, own.width, own.height, codec.compression)
    for name, side in (("width", width), ("height", height)):
        if whole_number(name, side, 1, config.max_positions * codec.compression) % codec.compression:
            raise SizeError(f"{name} = {side}, but it must be a multiple of {codec.compression}.")
    seed = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    seed, motion = whole_number("seed", seed, 0, MAX_SEED), whole_number("motion", motion, 0, MOST_MOTION)
    told: Metadata = {"prompt": prompt, "model": own.name, "edits": "a clip", "seed": seed}
    told |= {"width": width, "height": height, "frames": frames, "motion": motion}
    return ClipEditRequest(
        prompt=with_motion(prompt, motion),
        frames=frames,
        size=(height, width),
        seed=seed,
        rate=rate,
        settings=told,
        notes=notes,
    )
