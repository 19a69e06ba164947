"""Training samples of pocket-video: windows of animated emoji, drawings that are made to move, still ones.

A sample is a description; `render` makes its frames, `captions_of_sample` its words. The list of samples of a
data set is always the same. Mirrored are half of them, unless left or right belongs to the thing.
Shapes: T frames, S side in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator
from PIL import Image

from sanakit.pocket.data.clips.art import RATE
from sanakit.pocket.data.clips.dataset import PocketClips, clip_split
from sanakit.pocket.data.clips.made import WORDS, Motion, make_motion
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.data.samples import RARE, fame
from sanakit.pocket.words.captions import STYLES, everyday_phrases
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.seeds import numpy_generator

Kind = Literal["animated", "made", "still"]
SHARES: Mapping[str, float] = {"animated": 0.65, "made": 0.35}  # of the clips that are shown
FRAMES, SHOWN_RATE = 17, 8  # of a window, and how many a second
PACE = RATE // SHOWN_RATE  # source frames between two of them
LOOPS = (12, 16, 24)  # frames of a made motion: 1.5 to 3 seconds
COMMON_WEIGHT = 2.0  # of common things among the animated ones
SIDED = ("left", "right")  # words in the names of things that must not be mirrored
DRAWS = 8  # which random numbers decide on samples
_SUFFIXES = {style.name: style.suffix for style in STYLES}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSample:
    """One clip, or one image, to learn from.

    row: in the clips ("animated") or in the drawings. start: frame that it begins with: of the source, or of
    the made loop. loop: frames of the made loop. weight: how often it is drawn within its kind.
    """

    kind: Kind
    row: int
    weight: float
    start: int = 0
    flip: bool = False
    motion: Motion | None = None
    loop: int = 0


def list_clip_samples(
    clips: PocketClips, drawings: PocketImages | None, *, windows: int, motions: int
) -> list[ClipSample]:
    """List the samples of a data set: animated ones, then made and still ones of the well-known drawings.

    windows: of each animated thing, spread over its skin tones. motions: that each drawing is given. Things
    that are held out among the clips are not shown at all.
    """
    random, samples = numpy_generator(0, DRAWS), list[ClipSample]()
    tones = Counter(row.concept for row in clips.rows)
    for number, row in enumerate(clips.rows):
        if row.split != "train":
            continue
        common = COMMON_WEIGHT if row.concept in COMMON_CONCEPTS else 1.0
        count = -(-windows // tones[row.concept])
        for _ in range(count):
            samples.append(
                ClipSample(
                    kind="animated",
                    row=number,
                    weight=common / (count * tones[row.concept]),
                    start=int(random.integers(row.frames)),
                    flip=_flipped(row.concept, random),
                )
            )
    for number, row in enumerate([] if drawings is None else drawings.rows):
        if fame(row.concept) <= RARE or clip_split(row.concept) != "train":
            continue
        weight = fame(row.concept)
        for motion in random.choice(get_args(Motion), motions, replace=False):
            loop = LOOPS[int(random.integers(len(LOOPS)))]
            made = {"motion": str(motion), "loop": loop, "start": int(random.integers(loop))}
            flip = _flipped(row.concept, random)
            samples.append(ClipSample(kind="made", row=number, weight=weight, flip=flip, **made))  # pyright: ignore[reportArgumentType]
        samples.append(ClipSample(kind="still", row=number, weight=weight))
    return samples


def render(sample: ClipSample, clips: PocketClips, drawings: PocketImages | None) -> np.ndarray:
    """Return a sample's frames, T S S 3 uint8; T is 1 for a still one."""
    if sample.kind == "animated":
        frames = clips.take(sample.row, sample.start, PACE, FRAMES)
    else:
        assert drawings is not None
        image, alpha = np.asarray(drawings.images[sample.row]), np.asarray(drawings.alpha[sample.row])
        if sample.motion is None:
            small = Image.fromarray(image).resize((clips.side, clips.side), Image.Resampling.BOX)
            frames = np.asarray(small)[None]
        else:
            loop = make_motion(image, alpha, sample.motion, sample.loop, clips.side)
            frames = loop[(sample.start + np.arange(FRAMES)) % sample.loop]
    return np.array(frames[:, :, ::-1] if sample.flip else frames)  # writable, as torch wants it


def captions_of_sample(sample: ClipSample, clips: PocketClips, drawings: PocketImages | None) -> list[str]:
    """Return the captions of a sample, which are shown alike."""
    if sample.kind == "animated":
        return clips.rows[sample.row].captions
    assert drawings is not None
    row = drawings.rows[sample.row]
    if sample.motion is None:
        return row.captions
    phrases, suffix = everyday_phrases(row.concept), _SUFFIXES[row.style]
    captions = [f"{phrases[0]} {words}" for words in WORDS[sample.motion]]
    captions += [f"{phrases[-1]} {words}, {suffix}" for words in WORDS[sample.motion]]
    return [*captions, phrases[0], f"{phrases[0]}, {suffix}"]


def _flipped(concept: str, random: Generator) -> bool:
    drawn = random.random() < 0.5
    return bool(drawn and not any(side in concept for side in SIDED))
