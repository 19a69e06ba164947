"""Words of pocket's data set: which emoji are pictured, what they are called, how each image is captioned.

Source: Unicode CLDR short names and keywords (emojibase-data, MIT); everyday names and styles are our own.
Concept = CLDR base label ("dog face"). Phrase = concept with article, as one would prompt it ("a dog face").
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.names import EVERYDAY_NAMES, PHRASES


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How one design is named in captions.

    name: key in the data set.   tag: follows a name ("red apple, 3D render emoji").
    long, short: precede "of" ("a glossy 3D render of a red apple").   suffix: short form after a comma.
    """

    name: str
    tag: str
    long: str
    short: str
    suffix: str


# Fluent 3D and Fluent colour are nearly the same drawings: only phrases without common words tell them apart.
STYLES = (
    Style(
        name="fluent-3d",
        tag="3D render emoji",
        long="a glossy 3D render",
        short="a 3D render",
        suffix="3D render",
    ),
    Style(
        name="fluent-color",
        tag="soft gradient emoji",
        long="a soft gradient illustration",
        short="a gradient illustration",
        suffix="soft gradient",
    ),
    Style(
        name="fluent-flat",
        tag="flat vector emoji",
        long="a flat vector illustration",
        short="a flat illustration",
        suffix="flat vector",
    ),
    Style(
        name="noto",
        tag="shaded cartoon emoji",
        long="a shaded cartoon illustration",
        short="a cartoon",
        suffix="cartoon",
    ),
)

LEFT_OUT_GROUPS = frozenset({"", "components", "flags", "symbols"})
LEFT_OUT_SUBGROUPS = frozenset({"family"})  # couples and families: thirty repeats of the same small figures
LEFT_OUT_CONCEPTS = frozenset(
    {
        "middle finger",
        "family",
        "family: adult, adult, child",
        "family: adult, adult, child, child",
        "family: adult, child",
        "family: adult, child, child",
        # a laptop with a company's logo in several designs
        "technologist",
        "man technologist",
        "woman technologist",
        # letters and figures, which a model of this size can only garble
        "hundred points",
        "ZZZ",
        "input numbers",
        "mobile phone with arrow",
        "e-mail",
    }
)
# LobeHub's 3D package has these from art that Microsoft did not release (its fluentui-emoji, issues 25, 28).
LEFT_OUT_OF_3D = frozenset({"paperclip", "linked paperclips", "video game"})

_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown")
PICTURABLE_SYMBOLS = frozenset(
    {f"{colour} {shape}" for colour in _COLOURS for shape in ("circle", "square")}
    | {"black circle", "black large square", "large orange diamond", "large blue diamond"}
    | {"red triangle pointed up", "eight-pointed star", "sparkle", "check mark", "cross mark", "splatter"}
    | {"red question mark", "red exclamation mark", "infinity", "multiply", "plus", "fleur-de-lis"}
    | {"yin yang", "peace symbol", "recycling symbol", "trident emblem"}
    | {"radioactive", "warning", "no entry", "children crossing"}
)

VAL_ONE_IN = 40  # 2.5 % of the concepts that are not common, all their styles together


def is_kept(concept: str, group: str, subgroup: str) -> bool:
    """Tell whether a concept belongs to the data set (see the LEFT_OUT lists for the reasons)."""
    if concept in PICTURABLE_SYMBOLS:
        return True
    if group in LEFT_OUT_GROUPS or subgroup in LEFT_OUT_SUBGROUPS or concept in LEFT_OUT_CONCEPTS:
        return False
    is_clock_face = concept.endswith(("o\u2019clock", "-thirty"))
    return not is_clock_face and not concept.endswith(": facing right")


def split_of(concept: str) -> str:
    """Return "val" for one rare concept in forty, by the hash of its name; else "train"."""
    if concept in COMMON_CONCEPTS or concept in EVERYDAY_NAMES:  # what people ask for must not be held out
        return "train"
    return "val" if int(hashlib.sha1(concept.encode()).hexdigest(), 16) % VAL_ONE_IN == 0 else "train"


def plain_name(concept: str) -> str:
    """Turn a CLDR label into words without article: "woman: red hair" -> "woman with red hair"."""
    kind, colon, trait = concept.partition(": ")
    if not colon:
        return concept.replace("\u2019", "'")
    if trait == "bald":
        return f"bald {kind}"
    return f"{kind} with {'a beard' if trait == 'beard' else trait}"


_BARE = frozenset(
    {"broccoli", "falafel", "fog", "fire", "fondue", "oden", "popcorn", "salad", "wrestling", "claus"}
)
_SINGULAR_S = ("ss", "us", "is", "as")
_PLURAL_FIRST = frozenset({"two", "men", "women", "people"})
_PREPOSITION = re.compile(" (?:with|without|of|in|on|under|over|behind|showing|holding|tilted) ")
_VOWEL_LETTER_CONSONANT_SOUND = ("uni", "one", "eu", "ute", "ukulele", "ewe")


def with_article(name: str) -> str:
    """Put "a" or "an" before a name; plurals, mass words and proper names stay bare.

    >>> with_article("astronaut"), with_article("unicorn"), with_article("grapes")
    ('an astronaut', 'a unicorn', 'grapes')
    """
    first = name.split()[0]
    head = _PREPOSITION.split(name)[0].split()[-1]
    plural = head.endswith("s") and not head.endswith(_SINGULAR_S)
    if first in ("person", "man", "woman"):
        plural = False  # of "woman lifting weights" there is one
    if plural or first in _PLURAL_FIRST or head.lower() in _BARE:
        return name
    sounded = first.lower()
    vowel = sounded[0] in "aeiou" and not sounded.startswith(_VOWEL_LETTER_CONSONANT_SOUND)
    return f"{'an' if vowel or sounded.startswith(('hour', 'x-ray')) else 'a'} {name}"


def phrase_of(concept: str) -> str:
    """Return the concept as one would prompt it, with its article: "dog face" -> "a dog face"."""
    return COMMON_CONCEPTS.get(concept) or PHRASES.get(concept) or with_article(plain_name(concept))


def everyday_phrases(concept: str) -> tuple[str, ...]:
    """Return all phrases under which a concept goes, the one to prompt first; no two concepts share one."""
    own = (phrase_of(concept), *EVERYDAY_NAMES.get(concept, ()))
    return tuple(dict.fromkeys(own))


def captions_of(concept: str, keywords: list[str], style: Style) -> list[str]:
    """Write the five to seven captions of one image; the last one or two are without style.

    keywords: CLDR keywords of the concept; at most three that the name does not contain are used.
    """
    name, phrases = plain_name(concept), everyday_phrases(concept)
    prompt, other = phrases[0], phrases[-1]
    captions = [
        f"{style.long} of {prompt}",
        f"{name}, {style.tag}",
        f"{style.short} of {other} on a white background",
        f"{prompt}, {style.suffix}",
    ]
    news = [word for word in keywords if word.isascii() and word.lower() not in name.lower()]
    if news:
        captions.append(f"{name}, {', '.join(news[:3])}, {style.tag}")
    captions += [prompt, other if other != prompt else name]
    return list(dict.fromkeys(captions))
