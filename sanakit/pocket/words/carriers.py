"""How new users ask for a thing: "draw me a dog", "dog logo", "a cute dog", "a dog wearing a hat".

The thing is drawn, whatever the words around it. Style words ("cartoon", "3D render", "flat") are not
among the carriers: they stand in the captions of the images that have the style, and mean it.
"""

from __future__ import annotations

from numpy.random import Generator

from sanakit.pocket.words.asked_as import names_of
from sanakit.pocket.words.captions import phrase_of
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.first_prompts import is_first_prompt, plain
from sanakit.pocket.words.further import FURTHER_CONCEPTS
from sanakit.pocket.words.plurals import is_countable, plural_of
from sanakit.pocket.words.scene_words import article
from sanakit.text.known_things import bare_name

OWN_NAME = 0.55  # share of drawn names that are a thing's own phrase
PLURAL = 0.04  # share that are a plural
PLAIN = 0.4  # share of draws that are the phrase itself

# {} is the thing with its article
CARRIERS: tuple[str, ...] = (
    *(
        "a picture of {}",
        "picture of {}",
        "pictures of {}",
        "a nice picture of {}",
        "a pic of {}",
        "pic of {}",
    ),
    *("an image of {}", "image of {}", "a single image of {}", "a clear image of {}"),
    *("a photo of {}", "photo of {}", "a photo of {}, 4k", "photo of {}, 8k", "a photograph of {}"),
    *("a realistic photo of {}", "a close-up of {}", "close up of {}", "a portrait of {}", "portrait of {}"),
    *("a drawing of {}", "drawing of {}", "a simple drawing of {}", "a child's drawing of {}"),
    *("a sketch of {}", "a painting of {}", "a beautiful painting of {}", "a digital painting of {}"),
    *("an illustration of {}", "illustration of {}", "artwork of {}", "clip art of {}", "clipart of {}"),
    *("a logo of {}", "logo of {}", "a logo with {}", "an icon of {}", "icon of {}", "an app icon with {}"),
    *(
        "an emoji of {}",
        "emoji of {}",
        "a sticker of {}",
        "sticker of {}",
        "a symbol of {}",
        "a sign with {}",
    ),
    *("draw {}", "draw me {}", "please draw {}", "please draw me {}", "draw {} please", "draw {} for me"),
    *(
        "can you draw {}?",
        "can you draw me {}?",
        "could you draw {}",
        "can you make {}",
        "could you paint {}?",
    ),
    *("paint {}", "paint me {}", "sketch {}", "make {}", "make me {}", "make a picture of {}"),
    *("create {}", "create an image of {}", "create a logo with {}", "create a picture of {} for me"),
    *(
        "generate {}",
        "generate an image of {}",
        "generate a picture of {}",
        "give me {}",
        "give me a picture of {}",
    ),
    *("show me {}", "show {}", "I want {}", "I want a picture of {}", "i want to see {}", "I would like {}"),
    *("I need {}", "I need an image of {}", "let me see {}", "{} please", "{}, please", "here is {}"),
    *("{}, digital art", "{}, digital art, trending on artstation", "{}, trending on artstation"),
    *("{}, highly detailed", "{}, highly detailed, 4k", "{}, 4k", "{}, 8k, sharp focus", "{}, high quality"),
    *(
        "{}, masterpiece, best quality",
        "{}, concept art",
        "{}, simple",
        "{}, minimalist",
        "{}, studio lighting",
    ),
    *("{} on a white background", "{}, white background", "{} on white", "{}, isolated", "{}, centered"),
    *("only {}", "just {}", "one picture of {}", "there is {}", "this is {}", "look, {}", "{} for kids"),
)

# {} is the thing without its article
BARE_CARRIERS: tuple[str, ...] = (
    *("{} emoji", "{} logo", "{} icon", "{} drawing", "{} picture", "{} image", "{} photo", "{} sticker"),
    *("{} clipart", "{} illustration", "{} symbol", "{} art", "{} png", "{} painting", "emoji {}", "the {}"),
    *("draw {}", "{} please", "picture {}", "picture of {}", "photo of {}", "logo {}", "icon {}", "my {}"),
    *("highly detailed {}", "{}, highly detailed", "{}, digital art", "{} 4k", "{}, trending on artstation"),
    *("a {} emoji", "a {} logo", "a {} icon", "a {} drawing", "a {} picture", "a {} sticker", "one {}"),
    *(
        "{} on white background",
        "{} white background",
        "minimalist {}",
        "realistic {}",
        "some {}",
        "{} design",
    ),
)

ADJECTIVES: tuple[str, ...] = (
    *(
        "cute",
        "cute",
        "cute",
        "cute little",
        "very cute",
        "super cute",
        "adorable",
        "sweet",
        "lovely",
        "pretty",
    ),
    *("beautiful", "nice", "cool", "funny", "little", "small", "tiny", "big", "large", "huge", "great"),
    *("simple", "magical", "amazing", "awesome", "perfect", "typical", "ordinary", "shiny", "old", "new"),
)
FEELINGS: tuple[str, ...] = (
    *(
        "happy",
        "sad",
        "angry",
        "friendly",
        "sleepy",
        "sleeping",
        "smiling",
        "young",
        "baby",
        "lonely",
        "tired",
    ),
    *(
        "running",
        "sitting",
        "dancing",
        "jumping",
        "hungry",
        "proud",
        "fat",
        "fluffy",
        "scary",
        "brave",
        "wild",
    ),
)
"""Adjectives for what is alive."""

PLACES: tuple[str, ...] = (
    *(
        "in the snow",
        "in a forest",
        "in the forest",
        "on the beach",
        "at the beach",
        "in space",
        "in the park",
    ),
    *("on a table", "at night", "in the garden", "in a garden", "in the city", "on the moon", "in the rain"),
    *("in the mountains", "by the sea", "on the grass", "at sunset", "under the stars", "in the sky"),
    *("in the desert", "in winter", "in summer", "on a hill", "in the sun", "in a meadow", "on the street"),
)
DEEDS: tuple[str, ...] = (
    *("running", "walking", "sitting", "sleeping", "jumping", "standing", "playing", "eating", "smiling"),
    *("dancing", "swimming", "flying", "looking up", "looking at you", "lying down", "drinking", "waving"),
    *("reading a book", "playing guitar", "playing football", "eating pizza", "eating ice cream", "singing"),
    *("riding a bike", "riding a skateboard", "driving a car", "drinking coffee", "taking a nap", "at work"),
    *("wearing a hat", "with a hat", "in a hat", "wearing glasses", "with glasses", "wearing sunglasses"),
    *("with a bow tie", "in a suit", "wearing a scarf", "with a scarf", "wearing a crown", "with a balloon"),
    *("wearing a shirt", "with a flower", "with a backpack", "wearing headphones", "with a big smile"),
)
"""What the living do, wear and hold."""

_COLOUR_WORDS = frozenset(
    {
        *(
            "red",
            "orange",
            "yellow",
            "green",
            "blue",
            "purple",
            "brown",
            "pink",
            "black",
            "white",
            "grey",
            "gray",
        ),
        *("golden", "gold", "silver", "ginger"),
    }
)
_ALIVE_SUBGROUPS = frozenset({"mammals", "birds", "amphibians", "reptiles", "marine life", "bugs"})
_ALIVE_AMONG_PEOPLE = frozenset({"people", "roles & careers", "fantasy"})
_NOT_ALIVE = frozenset({"feather", "wing", "paw prints", "pig nose", "spiral shell", "coral", "spider web"})


def draw_name(concept: str, random: Generator) -> str:
    """Draw a name of a thing: mostly its own phrase, else one of the table, at times a plural."""
    names, chance = names_of(concept), random.random()
    if not names or chance < OWN_NAME:
        return FURTHER_CONCEPTS.get(concept) or phrase_of(concept)
    name = names[int(random.integers(len(names)))]
    word = bare_name(name)
    return plural_of(word) if chance > 1 - PLURAL and is_countable(word) else name


def asked(phrase: str, random: Generator, *, alive: bool = False) -> str:
    """Ask for a thing as a new user would, at random; the phrase itself comes back in 40 % of draws.

    phrase: the thing with its article ("a dog").   alive: it can run, sleep and wear a hat (see is_alive).
    None of FIRST_PROMPTS is given but for the own phrase of a thing ("a dog"), which cannot be avoided.
    """
    if random.random() < PLAIN and _may_be_said(phrase):
        return phrase
    for _ in range(8):
        text = _typed(_ask(phrase, random, alive), random)
        if _may_be_said(text):
            return text
    return f"there is {phrase}"


def is_alive(concept: str, group: str, subgroup: str) -> bool:
    """Tell whether a thing can do something and wear something, by CLDR's group and subgroup."""
    if group == "people & body":
        return subgroup in _ALIVE_AMONG_PEOPLE
    whole = subgroup in _ALIVE_SUBGROUPS and concept not in _NOT_ALIVE
    return whole or concept in ("robot", "ghost", "alien", "teddy bear", "snowman", "ogre", "goblin")


def described(phrase: str, adjective: str) -> str:
    """Put an adjective before the thing, and the article that it takes.

    >>> described("a dog", "adorable"), described("the sun", "cute"), described("grapes", "nice")
    ('an adorable dog', 'the cute sun', 'nice grapes')
    """
    said = f"{adjective} {bare_name(phrase)}"
    if phrase.startswith(("a ", "an ")):
        return article(said)
    return f"the {said}" if phrase.startswith("the ") else said


def coloured(phrase: str, colour: str) -> str:
    """Name the thing in another colour; a colour that its phrase begins with gives way.

    >>> coloured("a red car", "orange"), coloured("a dog", "blue")
    ('an orange car', 'a blue dog')
    """
    name = bare_name(phrase)
    first, _, rest = name.partition(" ")
    if first in _COLOUR_WORDS and rest and rest != "fruit":
        article = phrase[: len(phrase) - len(name)]
        phrase = f"{'a ' if article in ('a ', 'an ') else article}{rest}"
    return described(phrase, colour)


def asked_in_colour(phrase: str, colour: str, random: Generator, *, alive: bool = False) -> str:
    """Ask for a thing in a colour: "a blue dog" as `asked` would, or now and then "a dog in blue"."""
    if random.random() < 0.1:
        said = f"{phrase} in {colour}" if random.random() < 0.5 else f"{phrase} that is {colour}"
    else:
        said = asked(coloured(phrase, colour), random, alive=alive)
    return f"{phrase} that is {colour}" if is_first_prompt(said) else said


def _may_be_said(text: str) -> bool:
    return not is_first_prompt(text) or plain(text) in _OWN_PHRASES


def _ask(phrase: str, random: Generator, alive: bool) -> str:
    """Choose one of the ways: bare, carried, described, doing something, somewhere, or two at once."""
    way = random.random()
    if way < 0.13:
        return bare_name(phrase)
    if way < 0.48:
        return _one_of(CARRIERS, random).format(phrase)
    if way < 0.62:
        return _carry_bare(phrase, random)
    if way < 0.76:
        return _described(phrase, random, alive)
    if way < 0.86:
        said = _doing(phrase, random, alive)
        return bare_name(said) if random.random() < 0.25 else said
    if way < 0.94:
        return _one_of(CARRIERS, random).format(_described(phrase, random, alive))
    return _one_of(CARRIERS, random).format(_doing(phrase, random, alive))


def _carry_bare(phrase: str, random: Generator) -> str:
    template, name = _one_of(BARE_CARRIERS, random), bare_name(phrase)
    if template.startswith("a ") and name[0] in "aeiou":
        template = f"an {template[2:]}"
    return template.format(name)


def _described(phrase: str, random: Generator, alive: bool) -> str:
    words = FEELINGS if alive and random.random() < 0.5 else ADJECTIVES
    said = described(phrase, _one_of(words, random))
    return bare_name(said) if random.random() < 0.3 else said


def _doing(phrase: str, random: Generator, alive: bool) -> str:
    words = DEEDS if alive and random.random() < 0.75 else PLACES
    return f"{phrase} {_one_of(words, random)}"


def _typed(text: str, random: Generator) -> str:
    """Type it as people do: mostly as it is, at times with a capital, a full stop, or all in capitals."""
    hand = random.random()
    if hand < 0.70:
        return text
    if hand < 0.80:
        return text.lower()
    if hand < 0.88:
        return text[0].upper() + text[1:]
    if hand < 0.96:
        return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")
    if hand < 0.98:
        return f"{text}!"
    return text.upper()


def _one_of(words: tuple[str, ...], random: Generator) -> str:
    return words[int(random.integers(len(words)))]


_OWN_PHRASES = frozenset(map(plain, (*COMMON_CONCEPTS.values(), *FURTHER_CONCEPTS.values())))
