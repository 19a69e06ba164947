"""Words of pocket's composed scenes: which things they hold, and how one asks for them."""

from __future__ import annotations

from sanakit.pocket.words.captions import Style
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.text.known_things import bare_name

SCENE_CONCEPTS: tuple[str, ...] = (
    *("dog face", "cat face", "fox", "lion", "tiger face", "bear", "panda", "koala", "rabbit face"),
    *("cow face", "pig face", "frog", "elephant", "chicken", "penguin", "owl", "turtle", "dolphin"),
    *("octopus", "crab", "butterfly", "lady beetle"),
    *("rose", "sunflower", "tulip", "evergreen tree", "cactus", "four leaf clover", "maple leaf", "mushroom"),
    *("red apple", "banana", "lemon", "tangerine", "pineapple", "strawberry", "pear", "avocado", "eggplant"),
    *("carrot", "tomato", "hamburger", "doughnut", "cookie", "cupcake", "hot beverage", "beer mug"),
    *("grinning face", "robot", "ghost", "alien", "skull", "red heart", "blue heart"),
    *("automobile", "bus", "taxi", "airplane", "rocket", "sailboat", "flying saucer"),
    *("star", "cloud", "snowman", "umbrella", "crescent moon", "house", "castle", "tent"),
    *("key", "locked", "wrapped gift", "balloon", "light bulb", "alarm clock", "camera", "television"),
    *("bomb", "bell", "crown", "teddy bear", "jack-o-lantern", "Christmas tree"),
    *("t-shirt", "top hat", "backpack", "soccer ball", "basketball", "trophy", "drum", "guitar"),
)
"""Of the common things those that are known at half size, and of which there can be two, three or four."""

NUMBERS = {2: "two", 3: "three", 4: "four"}
_PLURALS = {"leaf": "leaves", "tomato": "tomatoes", "clover": "clovers"}


def bare(concept: str) -> str:
    """Return a common thing's name without its article: "red apple" for "a red apple"."""
    return bare_name(COMMON_CONCEPTS[concept])


def plural(concept: str) -> str:
    """Return a common thing's name for several: "cups of coffee" for "a cup of coffee"."""
    name = bare(concept)
    for link in (" of ", " in ", " with "):
        head, found, rest = name.partition(link)
        if found:
            return f"{_plural(head)}{link}{rest}"
    return _plural(name)


def _plural(name: str) -> str:
    *before, word = name.split()
    if word in _PLURALS:
        word = _PLURALS[word]
    elif word.endswith(("s", "x", "ch", "sh")):
        word += "es"
    elif word.endswith("y") and word[-2] not in "aeiou":
        word = f"{word[:-1]}ies"
    else:
        word += "s"
    return " ".join([*before, word])


def article(words: str) -> str:
    """Put the indefinite article before words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def scene_captions(
    kind: str, concepts: list[str], ground: str, colour: str | None, style: Style
) -> tuple[str, ...]:
    """Say in several ways what a scene shows; the first names neither style nor a white ground.

    kind: of `scenes.KINDS`. concepts: of the objects, in the scene's order. colour: of a silhouette.
    """
    said = said_of(kind, concepts, colour)
    if ground != "white":
        said = [f"{words} on {article(ground)} background" for words in said]
    if kind == "silhouette":  # looks the same in all styles
        return (*said, *(f"{words}, flat" for words in said[:1]))
    return (
        *said,
        f"{style.long} of {said[0]}",
        f"{said[-1]}, {style.suffix}",
        f"{style.short} of {said[-1]}",
    )


def said_of(kind: str, concepts: list[str], colour: str | None) -> list[str]:
    """Say in several ways what a scene shows, apart from its ground and style; arguments as above."""
    names = [COMMON_CONCEPTS[concept] for concept in concepts]
    match kind:
        case "one":
            said = [names[0]]
        case "silhouette":
            said = [f"{article(str(colour))} silhouette of {names[0]}"]
        case "count":
            said = [f"{NUMBERS[len(concepts)]} {plural(concepts[0])}"]
        case "two":
            said = [f"{names[0]} and {names[1]}", f"{names[1]} and {names[0]}"]
        case "left":
            said = [f"{names[0]} to the left of {names[1]}", f"{names[1]} to the right of {names[0]}"]
            said.append(f"on the left {names[0]} and on the right {names[1]}")
            said.append(f"on the right {names[1]} and on the left {names[0]}")
            said.append(f"{names[0]} on the left and {names[1]} on the right")
        case "above":
            said = [f"{names[0]} above {names[1]}"]
            said.append(f"at the top {names[0]} and at the bottom {names[1]}")
            said.append(f"at the bottom {names[1]} and at the top {names[0]}")
            said.append(f"{names[1]} below {names[0]}")
        case "size":
            big, small = f"a big {bare(concepts[0])}", f"a small {bare(concepts[1])}"
            said = [f"{big} and {small}", f"{small} next to {big}"]
        case _:
            raise ValueError(f"no kind of scene: {kind}")
    return said
