"""One call for clips, checked and complete before any work begins; checking needs no weights.

Prompts, guidance, solver and seeds are those of an image's request (`pipelines/request.py`), which a
`ClipRequest` holds. New are frames and their rate, sizes of clips, the motion score, and what a clip begins
with or is redrawn from.
Shapes: B clips, C latent channels, t h w latents, T frames, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypedDict, get_args

from PIL import Image
from torch import Tensor

from sanakit.arguments import OF_CLIPS, check_arguments
from sanakit.clips.clip import VideoClip
from sanakit.clips.counts import as_rate, frames_for
from sanakit.dialect import Dialect, check_dialect
from sanakit.errors import SettingsError, SizeError
from sanakit.images.image import Metadata
from sanakit.models.contracts import LatentShape, VideoCodecConfig
from sanakit.models.video.frame_rule import FrameRule
from sanakit.pipelines.control import size_like
from sanakit.pipelines.image_to_image import STRENGTH
from sanakit.pipelines.request import ModelSpec, Request, check_request, make_sampler, plain, whole_number
from sanakit.pipelines.source import checked_strength
from sanakit.pipelines.video.chunk_request import (
    FEW_STEP,
    SPLIT,
    ChunkPlan,
    check_chunks,
    check_distilled,
    split_prompt,
)
from sanakit.pipelines.video.chunks import CausalConfig
from sanakit.pipelines.video.result import ClipOutput
from sanakit.pipelines.video.source import conditioning_frame, frames_of, source_frames
from sanakit.text.prompt_weights import checked_prompts
from sanakit.text.video import with_motion
from sanakit.weights.video.settings import (
    MOST_FRAMES,
    MOST_MOTION,
    VideoSettings,
    load_video_configs,
    load_video_settings,
)
from sanakit.wording import counted

MAX_CLIPS = 64  # of one call


class ClipDrawSettings(TypedDict, total=False):
    """The settings of a call for clips, as for `TextToVideo.__call__`; left out: the model's own."""

    frames: int | None
    seconds: float | str | Fraction | None
    rate: int | float | str | Fraction | None
    width: int | None
    height: int | None
    image: Image.Image | None
    clip: VideoClip | None
    strength: float | None
    motion: int | None
    steps: int | None
    guidance: float | None
    guidance_kind: str | None
    seed: int | None
    num_clips: int
    solver: str | None
    latents: Tensor | None
    output: ClipOutput
    binned: bool
    dialect: Dialect | None
    prompt_weights: bool


class ClipShape(LatentShape):
    """The size of one clip's latents, in which frames are an axis even if there is only one."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Return the shape of one clip's tensor, C t h w."""
        return (self.channels, self.frames, self.height, self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoSpec:
    """The facts about a video model that checking a call needs."""

    settings: VideoSettings
    latent_channels: int  # C
    sample_size: int  # rows of tokens that the model was trained at
    compression: int  # pixels of a latent, along one side
    patch: int  # latents of a token, along one side
    rule: FrameRule
    max_positions: int  # tokens along one side, and latents along time
    causal: bool = False  # LongSANA: it draws chunk after chunk
    lookahead: int = 0  # latents that must come before a frame can be decoded

    @property
    def unit(self) -> int:
        """Pixels of a token, along one side: sizes are multiples of it."""
        return self.compression * self.patch

    def check_causal(self) -> None:
        """Raise SettingsError for a model that does not draw chunk after chunk."""
        if not self.causal:
            raise SettingsError(
                f"{self.settings.shared.name} is not causal and draws whole clips: call the pipeline, or "
                "load a causal model such as LongSANA."
            )

    def of_images(self, *, unit: int | None = None) -> ModelSpec:
        """Return the facts that checking an image's request needs.

        unit: pixels that sides must be multiples of; None: those of a latent.
        """
        return ModelSpec(
            settings=self.settings.shared,
            latent_channels=self.latent_channels,
            sample_size=1,  # of none of the models that have bins of images
            compression=unit or self.compression,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> VideoSpec:
        """Read it from a model's folder, without its weights; path and errors as for `load_transformer`."""
        return cls.of(load_video_settings(path), *load_video_configs(path))

    @classmethod
    def of(
        cls, settings: VideoSettings, transformer: CausalConfig, autoencoder: VideoCodecConfig
    ) -> VideoSpec:
        """Take it from a model's settings and sizes. Raises SettingsError for parts that do not fit."""
        if transformer.latent_channels != autoencoder.latent_channels:
            raise SettingsError(
                f"The transformer has {transformer.latent_channels} latent channels, the autoencoder "
                f"{autoencoder.latent_channels}: use both from the same model."
            )
        return cls(
            settings=settings,
            latent_channels=transformer.latent_channels,
            sample_size=transformer.sample_size,
            compression=autoencoder.compression,
            patch=transformer.patch,
            rule=autoencoder.frame_rule,
            max_positions=transformer.max_positions,
            causal=transformer.causal,
            lookahead=autoencoder.lookahead,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClipRequest:
    """One call, checked and complete."""

    sampling: Request  # prompts with their motion scores, guidance, solver, seeds; cells and size of a clip
    frames: int  # T
    rate: Fraction  # frames a second
    output: ClipOutput
    first: Tensor | None = None  # 1 3 1 H W in [-1, 1]: the frame that all clips begin with
    source: Tensor | None = None  # 1 3 T H W in [-1, 1]: the clip that is redrawn
    chunks: ChunkPlan | None = None  # of causal models, which draw chunk after chunk

    @property
    def metadata(self) -> list[Metadata]:
        """The settings of each clip."""
        return self.sampling.metadata

    @property
    def typed(self) -> list[str]:
        """The prompts as they were typed, each once."""
        typed = [str(one["prompt"]) for one in self.metadata]
        return list(dict.fromkeys(part for text in typed for part in split_prompt(text)))

    @property
    def encoded(self) -> bool:
        """Whether there is an image or a clip, which the autoencoder has to encode."""
        return self.first is not None or self.source is not None


def check_clip_request(
    spec: VideoSpec,
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
) -> ClipRequest:
    """Check one call and complete it with the model's own settings; all as for `TextToVideo.__call__`.

    Raises SettingsError or SizeError.
    """
    check_arguments(others, ClipDrawSettings.__annotations__, OF_CLIPS)
    own, notes = spec.settings, list[str]()
    _check_start(image, clip, strength)
    few = None
    if spec.causal:
        _check_causal(own.shared.name, clip, latents)
        if own.chunks.times is not None:
            given = {"negative_prompt": negative_prompt, "guidance": guidance, "steps": steps}
            given |= {"guidance_kind": guidance_kind, "solver": solver}
            few = check_distilled(own.shared.name, own.chunks, **given)  # pyright: ignore[reportArgumentType]
            negative_prompt, guidance, steps, solver = "", 1.0, len(few.times) - 1, None
    if output not in get_args(ClipOutput):
        raise SettingsError(f'output = {output!r}, but it must be "clip", "pt" or "latent".')
    dialect = own.shared.dialect if dialect is None else check_dialect(dialect)
    negative_prompt = own.negative_prompt if negative_prompt is None else negative_prompt
    prompts, negatives = checked_prompts(prompt, negative_prompt, MAX_CLIPS)
    if not spec.causal and any(SPLIT in text for text in prompts):
        raise SettingsError(
            f'"{SPLIT}" parts the prompts of chunks, which {own.shared.name} does not draw: load a causal '
            "model such as LongSANA.",
            setting="prompt",
        )
    num_clips = whole_number("num_clips", num_clips, 1, MAX_CLIPS // len(prompts))
    score = own.score(dialect) if motion is None else whole_number("motion", motion, 0, MOST_MOTION)
    rate = as_rate(rate) if rate is not None else own.rate if clip is None else clip.rate

    frames = _check_frames(spec, frames, seconds, rate, clip, image is not None, notes)
    shape = image if clip is None else Image.fromarray(clip.frames[0])
    if shape is not None and width is None and height is None:
        width, height = size_like(shape, own.shared.width, own.shared.height, spec.unit)
        height, width = spec.of_images(unit=spec.unit).drawn_size(width, height, binned=binned)
    width = own.shared.width if width is None else plain(width)
    height = own.shared.height if height is None else plain(height)
    drawn = _drawn_size(spec, width, height, binned, notes)
    cells = _cells(spec, frames, drawn)

    sampling = check_request(
        spec.of_images(),
        [SPLIT.join(with_motion(part, score) for part in split_prompt(text)) for text in prompts],
        negatives,
        width=drawn[1],
        height=drawn[0],
        steps=steps,
        guidance=guidance,
        guidance_kind=guidance_kind,
        seed=seed,
        num_images=num_clips,
        solver=solver,
        binned=False,
        dialect=dialect,
        prompt_weights=prompt_weights,
    )
    told: Metadata = {"width": width, "height": height, "frames": frames, "motion": score}
    sampler, first, source, chunks = few or sampling.solver, None, None, None
    if spec.causal:
        told |= {"solver": FEW_STEP} if few else {}
        plan = {"motion": score, "dialect": dialect, "prompt_weights": prompt_weights}
        plan |= {"latents": cells.frames, "guided": sampling.guided}
        chunks = check_chunks(own.chunks, prompts, **plan)  # pyright: ignore[reportArgumentType]
    if image is not None:
        told |= {"begins_with": "an image"}
        first = conditioning_frame(image, drawn, notes)
    if clip is not None:
        strength = STRENGTH if strength is None else checked_strength(strength)
        told |= {"redraws": "a clip", "strength": strength}
        name, model = str(sampling.metadata[0]["solver"]), spec.of_images()
        model = replace(model, settings=replace(model.settings, dialect=dialect))
        sampler = make_sampler(name, sampling.steps, model.settings.shift, strength, model.whole_times)
        source = source_frames(clip, frames, drawn, notes)
    if latents is not None:
        cells.check(latents, len(sampling.seeds))
    each = zip(sampling.metadata, [text for text in prompts for _ in range(num_clips)], strict=True)
    return ClipRequest(
        sampling=replace(
            sampling,
            cells=cells,
            latents=latents,
            seeds=sampling.seeds if latents is None else [],
            size=(height, width),
            solver=sampler,
            metadata=[_recorded(one, text, told, seeded=latents is None) for one, text in each],
            notes=(*sampling.notes, *notes),
        ),
        frames=frames,
        rate=rate,
        output=output,
        first=first,
        source=source,
        chunks=chunks,
    )


def _recorded(found: Metadata, prompt: str, told: Metadata, *, seeded: bool) -> Metadata:
    """Return the settings of one clip: an image's, its prompt as it was typed, and those of clips."""
    kept = {name: value for name, value in found.items() if seeded or name != "seed"}
    kept = {name: int(value) if isinstance(value, bool) else value for name, value in kept.items()}
    return kept | {"prompt": prompt} | told


def _check_start(image: Image.Image | None, clip: VideoClip | None, strength: float | None) -> None:
    """Raise SettingsError for a start of the wrong type, for two, and for a strength without a clip."""
    if image is not None and not isinstance(image, Image.Image):
        raise SettingsError(f"The image came as {type(image).__name__}: open it with PIL.Image.open.")
    if clip is not None and not isinstance(clip, VideoClip):
        raise SettingsError(f"The clip came as {type(clip).__name__}: read it with clips.reading.open_clip.")
    if image is not None and clip is not None:
        raise SettingsError("An image and a clip to start from cannot be combined: give one of them.")
    if strength is not None and clip is None:
        raise SettingsError("strength says how much of a clip is redrawn: give the clip, or omit it.")


def _check_causal(name: str, clip: VideoClip | None, latents: Tensor | None) -> None:
    """Raise SettingsError for what cannot be drawn in chunks."""
    if clip is not None:
        raise SettingsError(
            f"{name} is a causal model, which cannot redraw clips: omit the clip, or begin with an image."
        )
    if latents is not None:
        raise SettingsError(f"{name} draws the noise of each chunk from its seed: pass a seed, not latents.")


def _check_frames(
    spec: VideoSpec,
    frames: int | None,
    seconds: float | str | Fraction | None,
    rate: Fraction,
    clip: VideoClip | None,
    held: bool,
    notes: list[str],
) -> int:
    """Return the number of frames to draw. held: the first one is given.

    Raises SettingsError, or SizeError with the nearest allowed numbers.
    """
    if frames is not None and seconds is not None:
        raise SettingsError("frames and seconds cannot be combined: give one of them.")
    frames = None if frames is None else whole_number("frames", frames, 1, MOST_FRAMES)
    if seconds is not None:
        frames, told = frames_for(seconds, rate, spec.rule.per_latent)
        notes += [told] if told else []
    if clip is not None:
        notes += clip.notes
        frames = frames_of(clip, frames, spec.settings.frames, spec.rule, notes)
    frames = spec.settings.frames if frames is None else frames
    frames = whole_number("frames", frames, 1, MOST_FRAMES)
    if spec.rule.latents(frames) == 1 and held:
        more = spec.rule.frames(2)
        text = f"The image is all of a clip of 1 frame: ask for {more} frames or more."
        raise SettingsError(text, setting="frames")
    return frames


def _drawn_size(spec: VideoSpec, width: int, height: int, binned: bool, notes: list[str]) -> tuple[int, int]:
    """Return (height, width) of what the transformer draws. notes: told of a size that it did not learn."""
    sized = spec.of_images(unit=spec.unit)
    drawn, learned = sized.drawn_size(width, height, binned=binned), sized.settings.sizes
    if drawn != (height, width):
        others = tuple(size for size in learned if size != (drawn[1], drawn[0]))
        told = f"{drawn[1]}x{drawn[0]}, the nearest that it learned"
        if others:
            second = replace(sized, settings=replace(sized.settings, sizes=others)).drawn_size(width, height)
            told += f" (then {second[1]}x{second[0]})"
        notes.append(
            f"{sized.settings.name} did not learn the size {width}x{height}: the clip is drawn at {told}, "
            "and resized."
        )
    return drawn


def _cells(spec: VideoSpec, frames: int, drawn: tuple[int, int]) -> ClipShape:
    """Return the size of a clip's latents. Raises SizeError for more positions than the model knows."""
    latents, most, size = spec.rule.latents(frames), spec.max_positions, f"of {drawn[1]}x{drawn[0]} px"
    if max(latents, *(side // spec.unit for side in drawn)) > most:
        raise SizeError(
            f"{counted(frames, f'frame {size} is', f'frames {size} are')} more than "
            f"{spec.settings.shared.name} knows positions for: at most {spec.rule.frames(most)} frames, and "
            f"sides of {most * spec.unit} px."
        )
    height, width = (side // spec.compression for side in drawn)
    return ClipShape(spec.latent_channels, latents, height, width)
