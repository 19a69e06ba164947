"""Captions of pocket's clips: what moves, and how, in words.

No package says how an emoji moves, so the words come from measurements of its outline and of its pixels (see
`Motion`). They say no more than was measured: "bobbing up and down", never "waving".
"""

from __future__ import annotations

from dataclasses import dataclass

from sanakit.pocket.words.captions import STYLES, everyday_phrases, plain_name, with_article

TAG = "animated 3D emoji"
LONG, SHORT = "a looping animation", "an animated 3D render"

# From these figures on a word is used; about a quarter of the animated emoji reach each of them.
BOB, SWAY = 4.0, 3.0  # % of the side
SWELL = 10.0  # % of the area
LIVELY = 2.4  # % of the range
GENTLE = 1.0  # below it


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
    """Return how a thing moves, to be put behind its name: "bobbing up and down"; at least one."""
    words = []
    if motion.bob >= BOB and motion.bob >= motion.sway:
        words.append("bobbing up and down")
    if motion.sway >= SWAY and motion.sway > motion.bob:
        words.append("swaying from side to side")
    if motion.swell >= SWELL:
        words.append("growing and shrinking")
    if motion.change >= LIVELY:
        words.append("moving a lot")
    elif motion.change < GENTLE:
        words.append("moving a little")
    return words or ["moving"]


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
    words = motion_words(motion)
    captions = [f"{SHORT} of {prompt}", f"{name}, {TAG}"]
    captions += [f"{prompt} {word}" for word in words]
    captions += [
        f"{LONG} of {other} {words[0]} on a white background",
        f"{prompt} {' and '.join(words)}, {STYLES[0].suffix}",
    ]
    news = [word for word in keywords if word.isascii() and word.lower() not in name.lower()]
    if news:
        captions.append(f"{name}, {', '.join(news[:3])}, {TAG}")
    captions += [prompt, other if other != prompt else name]
    return list(dict.fromkeys(captions))
