"""The quality of a model like pocket-video: what it draws, how much it moves, and whether it flickers.

Recognition: things that it learned from animations are requested, each with a seed of its own, and the middle
frame is looked up among real images (`recognition.py`). With the data set of clips the same things are there
as real clips, which go through the autoencoder, since no clip can be better than that: their middle frames
are the ceiling, their motion and the flicker of their still pixels what those of drawn clips are divided by
(`eval/metrics`). First frames of real clips are animated, and compared with what came in.
Shapes: B clips, T frames, S side in pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.errors import DataError
from sanakit.eval.metrics.clips import clip_figures
from sanakit.eval.metrics.flicker import still_flicker
from sanakit.eval.metrics.motion import dynamic_degree, motion
from sanakit.eval.metrics.similarity import psnr
from sanakit.eval.networks.efficientnet import EfficientNetLite0, image_features, load_efficientnet
from sanakit.images.image import to_levels, to_tensor
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.pocket.data.clips.dataset import PocketClips
from sanakit.pocket.data.clips.samples import FRAMES, PACE
from sanakit.pocket.evaluate.recognition import TOP, Gallery, Shares
from sanakit.pocket.evaluate.reference import load_reference
from sanakit.pocket.evaluate.report import OnProgress
from sanakit.pocket.words.known_things import ask_for
from sanakit.weights.known_things import load_known_things

PROMPTS = 100  # some things come twice where fewer are animated, with other seeds
FIRST_FRAMES = 20  # of real clips, that are animated
HELD_OUT = 32  # real clips of things that were not learned, for the autoencoder
BATCH = 5  # clips drawn together

OnClip = Callable[[int, VideoClip], None]
"""Called with the number of a prompt and its clip, to keep it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RealFigures:
    """Figures that real clips are needed for.

    ceiling: real clips' middle frames, recognised. dynamic_degree: 1 is as much motion as real clips have.
    still_flicker: flicker on still pixels over that of real clips. first_frame: PSNR in dB of the frame that
    a clip begins with and the image it was given; first_frame_ceiling: of the autoencoder alone.
    autoencoder: PSNR in dB of held-out clips; autoencoder_flicker: error of their differences over these.
    """

    ceiling: Shares
    dynamic_degree: float
    still_flicker: float
    first_frame: float
    first_frame_ceiling: float
    autoencoder: float
    autoencoder_flicker: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoReport:
    """Figures of one model. motion: median, in percent of the range. real: None without real clips."""

    model: str
    seed: int
    steps: int
    guidance: float
    prompts: int
    things: int
    recognised: Shares
    motion: float
    still_flicker: float  # in percent of the range, mean
    real: RealFigures | None
    seconds_per_clip: float  # text and decoding included
    not_recognised: tuple[str, ...]  # prompts whose thing is not among the five nearest


def evaluate_video(
    model: str | os.PathLike[str] = "pocket-video",
    clips: PocketClips | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    progress: OnProgress = lambda what, done, total: None,
    keep: OnClip = lambda number, clip: None,
) -> VideoReport:
    """Measure the embedded model of clips, or one trained like it, at its own default settings.

    clips: the data set that it learned from; None: figures that need real clips are left out. seed: of the
    first prompt; prompt i is drawn from seed + i, and so is the clip of first frame i. limit: of prompts,
    spread over the things; None: 100. Raises DataError for a model whose folder names no animated things,
    MissingExtraError without EfficientNet, and what loading a model raises.
    """
    network, reference = load_efficientnet(), load_reference()
    pipe = TextToVideo.from_pretrained(model, device=device)
    known = load_known_things(pipe.settings.shared)
    animated = known.animated if known else ()
    labels = {phrase: number for number, phrase in enumerate(reference.prompts) if phrase in animated}
    if not labels:
        raise DataError(
            f"{model} names no animated things that the reference images show: measure a model that "
            "`sana train pocket-video` made."
        )
    things = list(labels)
    count = limit or PROMPTS
    asked = [things[number % len(things)] for number in range(count)]
    if count < len(things):
        asked = [things[number * len(things) // count] for number in range(count)]

    drawn: list[np.ndarray] = []
    started = perf_counter()
    for first in range(0, len(asked), BATCH):
        progress("drawing clips", first, len(asked))
        result = pipe(asked[first : first + BATCH], seed=seed + first)
        assert isinstance(result.clips, list)
        for clip in result.clips:
            keep(len(drawn), clip)
            drawn.append(clip.frames)
    seconds = (perf_counter() - started) / len(asked)
    progress("drawing clips", len(asked), len(asked))

    ranks = middle_ranks(drawn, [labels[prompt] for prompt in asked], network, reference.gallery)
    moving, flicker = [motion(frames) for frames in drawn], fmean(map(still_flicker, drawn))
    real = None
    if clips is not None:
        real = _beside(
            pipe,
            clips,
            things,
            labels,
            network,
            reference.gallery,
            moving=moving,
            flicker=flicker,
            seed=seed,
            progress=progress,
        )
    missed = (prompt for prompt, rank in zip(asked, ranks.tolist(), strict=True) if rank >= TOP)
    shared = pipe.settings.shared
    return VideoReport(
        model=shared.name,
        seed=seed,
        steps=shared.steps,
        guidance=shared.guidance,
        prompts=len(asked),
        things=len(set(asked)),
        recognised=Shares.of(ranks),
        motion=float(np.median(moving)),
        still_flicker=flicker,
        real=real,
        seconds_per_clip=seconds,
        not_recognised=tuple(dict.fromkeys(missed)),
    )


def middle_ranks(
    clips: Sequence[np.ndarray], labels: Sequence[int], network: EfficientNetLite0, gallery: Gallery
) -> torch.Tensor:
    """Return how many things are nearer to each clip's middle frame than its own; T S S 3 uint8 each."""
    middles = to_tensor(np.stack([frames[len(frames) // 2] for frames in clips]))
    points = torch.cat([gallery.project(image_features(network, some)) for some in middles.split(16)])
    return gallery.ranks(points, torch.tensor(labels))


def _beside(
    pipe: TextToVideo,
    clips: PocketClips,
    things: Sequence[str],
    labels: dict[str, int],
    network: EfficientNetLite0,
    gallery: Gallery,
    *,
    moving: Sequence[float],
    flicker: float,
    seed: int,
    progress: OnProgress,
) -> RealFigures:
    """Measure real clips of the things, and what the model makes of their first frames."""
    first: dict[str, int] = {}
    for number, row in enumerate(clips.rows):
        first.setdefault(ask_for(row.concept), number)
    shown = [thing for thing in things if thing in first]
    if not shown:
        raise DataError("The data set has none of the model's animated things: use what it learned from.")
    real = [clips.take(first[thing], 0, PACE, FRAMES) for thing in shown]
    rebuilt = [_rebuilt(pipe, frames) for frames in real]
    ranks = middle_ranks(rebuilt, [labels[thing] for thing in shown], network, gallery)

    found: list[tuple[float, float]] = []
    for number, (thing, frames) in enumerate(zip(shown[:FIRST_FRAMES], real, strict=False)):
        progress("animating first frames", number, min(FIRST_FRAMES, len(shown)))
        came = frames[0]
        clip = pipe(thing, image=Image.fromarray(came), seed=seed + number).frames
        found.append((_likeness(clip[0], came), _likeness(_rebuilt(pipe, frames[:1])[0], came)))

    unseen = [number for number, row in enumerate(clips.rows) if row.split != "train"][:HELD_OUT]
    wanted = [clips.take(number, 0, PACE, FRAMES) for number in unseen] or real
    again = [to_tensor(_rebuilt(pipe, frames)).transpose(0, 1) for frames in wanted]
    wanted = [to_tensor(frames).transpose(0, 1) for frames in wanted]
    autoencoder = clip_figures(torch.stack(again), torch.stack(wanted))
    return RealFigures(
        ceiling=Shares.of(ranks),
        dynamic_degree=dynamic_degree(moving, [motion(frames) for frames in rebuilt]),
        still_flicker=_over(flicker, fmean(map(still_flicker, rebuilt))),
        first_frame=fmean(drawn for drawn, _ in found),
        first_frame_ceiling=fmean(own for _, own in found),
        autoencoder=autoencoder.psnr,
        autoencoder_flicker=autoencoder.flicker,
    )


@torch.no_grad()
def _rebuilt(pipe: TextToVideo, frames: np.ndarray) -> np.ndarray:
    """Return frames, T S S 3 uint8, after encoding and decoding."""
    codec = pipe.autoencoder
    clip = to_tensor(frames).transpose(0, 1)[None].to(pipe.device, codec.dtype)
    return to_levels(codec.decode(codec.encode(clip))[0].transpose(0, 1).float().cpu()).numpy()


def _over(drawn: float, real: float) -> float:
    """Return a flicker over that of real clips; where these have none at all, 1 or infinite."""
    if not real:
        return math.inf if drawn else 1.0
    return drawn / real


def _likeness(drawn: np.ndarray, wanted: np.ndarray) -> float:
    return float(psnr(to_tensor(drawn[None]), to_tensor(wanted[None])))
