"""Captions of pocket's clips: what moves, and how, in words.

No package says how an emoji moves, so the words come from measurements of its outline and of its pixels (see
`Motion`). They say no more than was measured: "bobs up and down", never "waves".
Thresholds: ours; each word fits between a tenth and a third of the clips.
"""

from __future__ import annotations

from dataclasses import dataclass

from sanakit.pocket.words.captions import STYLES, everyday_phrases, plain_name, with_article

TAG = "animated 3D emoji"
LONG, SHORT = "a looping animation", "an animated 3D render"


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """How much moves in a clip, measured on frames of 8 a second.

    change: mean |difference| of neighbouring frames, in % of the range. bob, sway: how far the middle of the
    outline travels up and down, and sideways, in % of the side. swell: how much the outline's area varies, in
    % of its mean.
    """

    change: float
    bob: float
    sway: float
    swell: float


def motion_words(motion: Motion) -> list[str]:
    """Return how a thing moves, as verbs behind its name: "bobs up and down"; the plainest first."""
    words = []
    if motion.bob >= BOB and motion.bob >= motion.sway:
        words.append("bobs up and down")
    if motion.sway >= SWAY and motion.sway >= motion.bob:
        words.append("sways from side to side")
    if motion.swell >= SWELL:
        words.append("grows and shrinks")
    if motion.change < GENTLE:
        words.append("moves gently")
    elif motion.change >= LIVELY:
        words.append("moves wildly")
    return words or ["moves"]


BOB, SWAY = 6.0, 5.0  # % of the side
SWELL = 25.0  # % of the area
GENTLE, LIVELY = 0.9, 2.5  # % of the range


def clip_captions(concept: str, tone: str, keywords: list[str], motion: Motion) -> list[str]:
    """Write the captions of one clip; the last two are the thing alone.

    tone: CLDR's words for the skin, or "". keywords: CLDR's; at most three that the name does not contain are
    used.
    """
    name, phrases = plain_name(concept), everyday_phrases(concept)
    if tone:
        name = f"{name} and {tone}" if " with " in name else f"{name} with {tone}"
        phrases = (with_article(name),)
    prompt, other = phrases[0], phrases[-1]
    verbs = motion_words(motion)
    style = STYLES[0].suffix
    captions = [f"{SHORT} of {prompt}", f"{name}, {TAG}"]
    captions += [f"{prompt} that {verb}" for verb in verbs]
    captions += [
        f"{LONG} of {other} that {verbs[0]}, on a white background",
        f"{prompt} {verbs[-1]}, {style}",
    ]
    news = [word for word in keywords if word.isascii() and word.lower() not in name.lower()]
    if news:
        captions.append(f"{name}, {', '.join(news[:3])}, {TAG}")
    captions += [prompt, other if other != prompt else name]
    return list(dict.fromkeys(captions))
