"""Words for a sample, chosen each time it is shown: as new users ask, in a style, a colour, a language.

Nearest words decide: a colour and a place stand beside their thing. Properties that nobody would mention
(turns, sizes of a single thing, most styles) are mostly omitted, so that seeds choose them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

from numpy.random import Generator

from sanakit.pocket.data.canvas import Placement
from sanakit.pocket.data.dataset import PocketRow
from sanakit.pocket.data.more_art import MORE_STYLES
from sanakit.pocket.data.samples import FIRST_MIX, Mix, PocketSample
from sanakit.pocket.data.scenes import Scene
from sanakit.pocket.words.captions import STYLES
from sanakit.pocket.words.carriers import asked, asked_in_colour, described, draw_name, is_alive
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.scene_words import article, said_of
from sanakit.pocket.words.teaching.asked_texts import PLACED
from sanakit.text.known_things import bare_name

T = TypeVar("T")
STYLED = 0.25  # share of captions
GROUND_SAID = 0.85  # of grounds that are not white
TILTED, SMALL = 8.0, 0.65  # degrees from which, and side up to which, a thing is called so
# kind of scene -> the roles of its first and second thing
_SIDES = {"left": ("left", "right"), "above": ("top", "bottom"), "size": ("big", "small")}
_BY_NAME = {style.name: style for style in (*STYLES, *MORE_STYLES)}


class Wording:
    """Writes captions.

    foreign: concept -> its names in other languages. mix: says how often those are used, and how often it is
    said how a thing stands.
    """

    def __init__(self, foreign: Mapping[str, Sequence[str]], mix: Mix = FIRST_MIX) -> None:
        self.foreign, self.mix = foreign, mix

    def single(self, sample: PocketSample, row: PocketRow, random: Generator) -> str:
        """Return a caption of one thing."""
        alive = is_alive(row.concept, row.group, row.subgroup)
        abroad = sample.colour is None and random.random() < self.mix.foreign
        if abroad and (names := self.foreign.get(row.concept)):
            return self._on_ground(_one(names, random), sample, random)
        phrase = draw_name(row.concept, random)
        if sample.colour is not None:
            said = asked_in_colour(phrase, sample.colour, random, alive=alive)
        elif self.mix.posed and (pose := pose_of(sample.placement)) and random.random() < self.mix.posed:
            said = asked(described(phrase, pose), random)
        elif random.random() < STYLED:
            said = _styled(phrase, row.style, random)
        else:
            said = asked(phrase, random, alive=alive)
        return self._on_ground(said, sample, random)

    def scene(self, scene: Scene, random: Generator) -> str:
        """Return a caption of a composed scene."""
        style, names = _BY_NAME[scene.style], [COMMON_CONCEPTS[thing.concept] for thing in scene.objects]
        if scene.kind in _SIDES and random.random() < 0.7:
            said = _placed(scene.kind, (names[0], names[1]), random)
        else:
            said = _one(said_of(scene.kind, [one.concept for one in scene.objects], scene.colour), random)
        if scene.ground != "white" and random.random() < 0.95:
            said = f"{said} on {article(scene.ground)} background"
        if scene.kind != "silhouette" and random.random() < 0.3:
            begins_with_thing = not said.startswith(("on ", "at ", "left", "right"))
            of = begins_with_thing and random.random() < 0.5
            said = f"{style.short} of {said}" if of else f"{said}, {style.suffix}"
        return said

    def _on_ground(self, said: str, sample: PocketSample, random: Generator) -> str:
        ground = sample.placement.ground
        if ground == "white" or random.random() > GROUND_SAID:
            return said
        return f"{said.rstrip('.!?')} on {article(ground)} background"


def pose_of(placement: Placement) -> str:
    """Return the word that says best how a thing stands; "" where it stands much as it was drawn."""
    if abs(placement.turn) >= TILTED:
        return "tilted"
    return "small" if placement.scale <= SMALL else "mirrored" if placement.flip else ""


def _styled(phrase: str, style: str, random: Generator) -> str:
    named = _BY_NAME[style]
    ways = (
        f"{named.long} of {phrase}",
        f"{named.short} of {phrase}",
        f"{phrase}, {named.suffix}",
        f"{bare_name(phrase)}, {named.tag}",
    )
    return _one(ways, random)


@cache
def _placed_forms() -> dict[frozenset[str], list[tuple[str, str]]]:
    """Return the forms of PLACED without marks, each with the role of {a}, by their two roles."""
    found: dict[frozenset[str], list[tuple[str, str]]] = {}
    for form in PLACED:
        roles = dict(re.findall(r"\[(\w) (\w+)\]", form))
        words = re.sub(r"\[\w(?: \w+)?\]", "", form)
        found.setdefault(frozenset(roles.values()), []).append((words, roles["a"]))
    return found


def _placed(kind: str, phrases: tuple[str, str], random: Generator) -> str:
    """Put two phrases into a form; the first has the first role of the scene's kind."""
    sides = _SIDES[kind]
    words, role = _one(_placed_forms()[frozenset(sides)], random)
    first, second = phrases if role == sides[0] else phrases[::-1]
    return words.format(a=first, b=second, A=bare_name(first), B=bare_name(second))


def _one(some: Sequence[T], random: Generator) -> T:
    return some[int(random.integers(len(some)))]
