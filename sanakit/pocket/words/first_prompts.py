"""First prompts of new users: 100 with their right answers, and 40 with nothing that pocket knows.

A pure table, written down before pocket 4 was trained. Nothing that trains on captions may hold one of the
100 word for word, but for the bare name of a thing; `is_first_prompt` tells.
"""

from __future__ import annotations

import re

FIRST_PROMPTS: dict[str, frozenset[str]] = {
    # bare words and plain names
    "a dog": frozenset({"dog", "dog face", "guide dog", "service dog", "poodle"}),
    "cat": frozenset({"cat", "cat face", "black cat", "grinning cat"}),
    "a horse": frozenset({"horse", "horse face"}),
    "bird": frozenset({"bird", "black bird", "dove"}),
    "fish": frozenset({"fish", "tropical fish", "blowfish"}),
    "a flower": frozenset(
        {"blossom", "white flower", "cherry blossom", "hibiscus", "rose", "tulip", "rosette"}
    ),
    "tree": frozenset({"deciduous tree", "evergreen tree"}),
    "a house": frozenset({"house", "house with garden", "houses"}),
    "car": frozenset({"automobile", "oncoming automobile", "sport utility vehicle"}),
    "a boat": frozenset({"sailboat", "speedboat", "motor boat", "canoe", "ship"}),
    "a train": frozenset({"train", "locomotive", "railway car", "high-speed train", "bullet train", "metro"}),
    "airplane": frozenset({"airplane", "small airplane"}),
    "apple": frozenset({"red apple", "green apple"}),
    "pizza": frozenset({"pizza"}),
    "sun": frozenset({"sun", "sun with face"}),
    "moon": frozenset({"crescent moon", "full moon", "full moon face", "waxing crescent moon"}),
    "heart": frozenset({"red heart", "pink heart", "growing heart", "beating heart"}),
    "a man": frozenset({"man", "person", "man: curly hair", "man: blond hair", "man: beard", "boy"}),
    "a woman": frozenset({"woman", "woman: curly hair", "woman: blond hair", "person", "girl"}),
    "a baby": frozenset({"baby"}),
    "mountain": frozenset({"mountain", "snow-capped mountain", "mount fuji"}),
    "a ball": frozenset({"soccer ball", "basketball", "volleyball", "baseball", "softball", "tennis"}),
    "a phone": frozenset({"mobile phone", "telephone", "telephone receiver"}),
    "clock": frozenset({"alarm clock", "mantelpiece clock", "watch", "timer clock"}),
    "robot": frozenset({"robot"}),
    # carriers
    "draw me a panda": frozenset({"panda"}),
    "draw a cat": frozenset({"cat", "cat face", "black cat", "grinning cat"}),
    "a picture of a lion": frozenset({"lion"}),
    "picture of an elephant": frozenset({"elephant"}),
    "a photo of a tiger": frozenset({"tiger", "tiger face"}),
    "photo of a red rose, 4k": frozenset({"rose"}),
    "an image of a rocket": frozenset({"rocket"}),
    "logo of a fox": frozenset({"fox"}),
    "a drawing of a tree": frozenset({"deciduous tree", "evergreen tree"}),
    "icon of a camera": frozenset({"camera", "camera with flash"}),
    "pizza emoji": frozenset({"pizza"}),
    "I want a unicorn": frozenset({"unicorn"}),
    "can you draw a butterfly?": frozenset({"butterfly"}),
    "show me a penguin": frozenset({"penguin"}),
    "please draw a strawberry": frozenset({"strawberry"}),
    "make a picture of a castle": frozenset({"castle", "Japanese castle"}),
    "generate an image of a sunflower": frozenset({"sunflower"}),
    "a banana on a white background": frozenset({"banana"}),
    "a dragon, digital art, trending on artstation": frozenset({"dragon", "dragon face"}),
    "highly detailed owl": frozenset({"owl"}),
    "Create a logo with a bear": frozenset({"bear", "teddy bear"}),
    "a simple drawing of a snowman": frozenset({"snowman", "snowman without snow"}),
    "an illustration of an octopus": frozenset({"octopus"}),
    "a beautiful painting of a rainbow": frozenset({"rainbow"}),
    "A hamburger.": frozenset({"hamburger"}),
    "GUITAR": frozenset({"guitar"}),
    # adjectives, young animals, synonyms
    "a cute cat": frozenset({"cat", "cat face", "grinning cat", "grinning cat with smiling eyes"}),
    "cute puppy": frozenset({"dog", "dog face", "poodle"}),
    "kitten": frozenset({"cat", "cat face", "grinning cat"}),
    "a bunny": frozenset({"rabbit", "rabbit face"}),
    "a small dog": frozenset({"dog", "dog face", "poodle", "guide dog", "service dog"}),
    "a happy bear": frozenset({"bear", "teddy bear", "polar bear"}),
    "a fluffy sheep": frozenset({"ewe", "ram"}),
    "a big elephant": frozenset({"elephant", "mammoth"}),
    "a scary ghost": frozenset({"ghost"}),
    "a smiley": frozenset(
        {
            "grinning face",
            "smiling face",
            "smiling face with smiling eyes",
            "slightly smiling face",
            "grinning face with smiling eyes",
            "grinning face with big eyes",
            "beaming face with smiling eyes",
        }
    ),
    "a sports car": frozenset({"automobile", "racing car"}),
    "spaceship": frozenset({"rocket", "flying saucer"}),
    "a cup of tea": frozenset({"hot beverage", "teacup without handle", "teapot"}),
    "chocolate cake": frozenset({"birthday cake", "shortcake", "cupcake", "chocolate bar"}),
    "an old house": frozenset({"house", "derelict house", "house with garden"}),
    "dinosaur": frozenset({"T-Rex", "sauropod"}),
    "a princess": frozenset({"princess", "person with crown"}),
    "wizard": frozenset({"mage", "man mage", "woman mage"}),
    "ice cream": frozenset({"ice cream", "soft ice cream", "shaved ice"}),
    "Christmas tree": frozenset({"Christmas tree"}),
    "a motorbike": frozenset({"motorcycle", "motor scooter"}),
    # colours
    "a red car": frozenset({"automobile", "oncoming automobile", "racing car", "sport utility vehicle"}),
    "a blue cat": frozenset({"cat", "cat face", "black cat", "grinning cat"}),
    "a green apple": frozenset({"green apple"}),
    "black cat": frozenset({"black cat", "cat"}),
    "a white horse": frozenset({"horse", "horse face", "unicorn"}),
    "yellow bird": frozenset({"bird", "baby chick", "front-facing baby chick"}),
    "a pink pig": frozenset({"pig", "pig face"}),
    "a purple heart": frozenset({"purple heart"}),
    "brown bear": frozenset({"bear", "teddy bear"}),
    "red balloon": frozenset({"balloon"}),
    # verbs, accessories, places
    "a dog running": frozenset({"dog", "dog face", "guide dog", "service dog", "poodle"}),
    "a cat wearing a hat": frozenset({"cat", "cat face", "top hat", "black cat"}),
    "a sleeping cat": frozenset({"cat", "cat face", "black cat"}),
    "a house with a garden": frozenset({"house with garden", "house"}),
    "a horse running in a field": frozenset({"horse", "horse racing", "horse face"}),
    "a fish in the water": frozenset({"fish", "tropical fish", "blowfish"}),
    "a cat with sunglasses": frozenset({"cat", "cat face", "smiling face with sunglasses", "sunglasses"}),
    "an astronaut in space": frozenset({"astronaut", "man astronaut", "woman astronaut"}),
    "a man with a beard": frozenset({"man: beard", "person: beard"}),
    "a beach with palm trees": frozenset({"beach with umbrella", "desert island", "palm tree"}),
    "a boat on the sea": frozenset(
        {"sailboat", "speedboat", "motor boat", "ship", "passenger ship", "ferry"}
    ),
    "sunset over the ocean": frozenset({"sunset", "sunrise", "sunrise over mountains"}),
    "a person riding a bike": frozenset(
        {
            "person biking",
            "man biking",
            "woman biking",
            "bicycle",
            "person mountain biking",
            "man mountain biking",
            "woman mountain biking",
        }
    ),
    "a vase with flowers": frozenset({"bouquet", "amphora", "potted plant"}),
    "a monkey eating a banana": frozenset({"monkey", "monkey face", "banana"}),
    "a lion with a crown": frozenset({"lion", "crown"}),
    "a teddy bear sitting on a chair": frozenset({"teddy bear", "chair"}),
    "city at night": frozenset({"night with stars", "cityscape at dusk", "bridge at night", "cityscape"}),
}
"""What a stranger types -> the CLDR labels of the things that are right answers."""

UNKNOWN_PROMPTS: tuple[str, ...] = (
    "quantum entanglement",
    "the meaning of life",
    "asdf qwer",
    "a Gothic treaty",
    "the theory of relativity",
    "inflation in the third quarter",
    "hello how are you",
    "what is your name?",
    "lorem ipsum dolor sit amet",
    "democracy",
    "the average of two numbers",
    "moral relativism",
    "jurisprudence",
    "xkcdzzq",
    "an abstract concept",
    "nostalgia for the eighties",
    "photosynthesis",
    "the Treaty of Westphalia",
    "a recursive function",
    "how do I install this",
    "foo bar baz",
    "existential philosophy",
    "the square root of minus one",
    "neoliberal economic policy",
    "epistemology",
    "the second law of thermodynamics",
    "gjhk dfkj wwoe",
    "bureaucracy",
    "an insurance policy",
    "yesterday",
    "the grammar of Latin verbs",
    "stochastic gradient descent",
    "a polynomial of degree five",
    "mortgage rates",
    "the subjunctive mood",
    "12345",
    "parliamentary procedure",
    "a hypothesis",
    "capitalism and its discontents",
    "import numpy as np",
)
"""Prompts of which pocket must say that it knows nothing in them."""


def plain(text: str) -> str:
    """Reduce a prompt to its lower-case words, so that capitals and full stops make no other prompt.

    >>> plain("A Dog.")
    'a dog'
    """
    return " ".join(re.findall(r"[\w'-]+", text.lower()))


def is_first_prompt(text: str) -> bool:
    """Tell whether a caption is one of the 100, but for capitals and punctuation."""
    return plain(text) in _PLAIN


_PLAIN = frozenset(plain(prompt) for prompt in FIRST_PROMPTS)
