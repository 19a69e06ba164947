"""Scenes composed of pocket's images: one to four things on a plain ground, with exact captions.

Scene i of a seed is always the same, and composed when it is requested. Things lie on a grid of 32 px, the
autoencoder's cell: a thing of one size then has nearly the same latents wherever it stands, and is learned
once.
One combination in ten is held out (which thing on which ground, which two together, how many of what): what a
model draws of those it has composed itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from sanakit.errors import DataError
from sanakit.pocket.data.dataset import PocketImages
from sanakit.pocket.data.palette import COLOURS
from sanakit.pocket.data.sources import SIZE
from sanakit.pocket.words.captions import STYLES
from sanakit.pocket.words.concepts import COMMON_CONCEPTS, ONE_WAY
from sanakit.pocket.words.scene_words import SCENE_CONCEPTS, scene_captions
from sanakit.seeds import numpy_generator

# kind -> how often; what each asks of a model is its own line in the evaluation
KINDS = {
    "one": 0.11,
    "two": 0.09,
    "count": 0.11,
    "left": 0.24,  # this and the next two depend on the order of words: the hardest to learn
    "above": 0.22,
    "size": 0.16,
    "silhouette": 0.07,
}
HELD_OUT_ONE_IN = 10
MIRRORED = 1  # which random numbers mirror things
TRIES = 2000  # scenes drawn before giving up on one that is (not) held out
HALF, BIG, SMALL = 128, 160, 96  # px, sides of things in company


@dataclass(frozen=True, slots=True)
class Placed:
    """One thing of a scene.

    concept: key of COMMON_CONCEPTS. x, y: upper left corner; side: both in px of a canvas of 256. flip:
    mirrored, left to right; its place stays.
    """

    concept: str
    x: int
    y: int
    side: int
    flip: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The content of a scene. kind: of KINDS. style: of STYLES. ground, colour (of a silhouette): of COLOURS.

    objects: for "left" the left one first, for "above" the upper, for "size" the big one.
    captions: the first without style.
    """

    kind: str
    style: str
    ground: str
    colour: str | None
    objects: tuple[Placed, ...]
    captions: tuple[str, ...]


class Scenes(Sequence[np.ndarray]):
    """A number of scenes as images, S S 3 uint8 each; `scene(i)` says what image i shows.

    S is the side of the data set's images: 256, or 512 where they are drawn again.

    pocket: the data set; things that it lacks in some style are left out. count: how many scenes. seed: other
    seeds give other scenes. held_out: only combinations that the others never show, instead of those.
    kinds: parts of KINDS to draw from, None: all. mirrored: share of things that are mirrored, each alone;
    places and words stay. things: common things that all styles have.
    """

    def __init__(
        self,
        pocket: PocketImages,
        count: int,
        seed: int = 0,
        *,
        held_out: bool = False,
        kinds: Sequence[str] | None = None,
        mirrored: float = 0.0,
    ) -> None:
        self.number, self.seed, self.held_out = count, seed, held_out
        self.kinds, self.mirrored = tuple(kinds or KINDS), mirrored
        self._images, self._alpha = pocket.images, pocket.alpha
        self._side = pocket.alpha.shape[1]
        self._rows = {(row.concept, row.style): i for i, row in enumerate(pocket.rows)}
        styles = [style.name for style in STYLES]
        complete = [name for name in COMMON_CONCEPTS if all((name, style) in self._rows for style in styles)]
        self.things = tuple(complete)
        self._several = [name for name in SCENE_CONCEPTS if name in complete]
        self._resized = lru_cache(maxsize=4096 * SIZE**2 // self._side**2)(self._resize)

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < self.number:
            raise IndexError(index)
        return self.compose(self.scene(index))

    def scene(self, index: int) -> Scene:
        """Return the content of image `index`. Raises DataError if the things allow no such combination."""
        random = numpy_generator(self.seed, index)
        chances = np.array([KINDS[kind] for kind in self.kinds])
        for _ in range(TRIES):
            kind = self.kinds[random.choice(len(self.kinds), p=chances / chances.sum())]
            scene = self._draw(kind, random)
            if is_held_out(scene) == self.held_out:
                return self._mirror(scene, index) if self.mirrored else scene
        wanted = "held-out combination" if self.held_out else "combination"
        raise DataError(
            f"{len(self._several)} things are too few for {wanted} of the kinds {', '.join(self.kinds)}: "
            "build the data set with more things."
        )

    def compose(self, scene: Scene) -> np.ndarray:
        """Return the image of a scene, S S 3 uint8."""
        picture = np.empty((self._side, self._side, 3), np.float32)
        picture[:] = COLOURS[scene.ground]
        zoom = self._side // SIZE
        for thing in scene.objects:
            x, y, side = thing.x * zoom, thing.y * zoom, thing.side * zoom
            colours, opacity = self._resized(self._rows[thing.concept, scene.style], side)
            if thing.flip:
                colours, opacity = colours[:, ::-1], opacity[:, ::-1]
            area = picture[y : y + side, x : x + side]
            if scene.colour is not None:
                area += opacity * (np.array(COLOURS[scene.colour], np.float32) - area)
            else:  # colours are those on white: what shines through is the ground instead
                area += colours - 255 + opacity * (255 - area)
        return picture.clip(0, 255).round().astype(np.uint8)

    def _mirror(self, scene: Scene, index: int) -> Scene:
        """Mirror some of a scene's things where they stand; things of a kind stay alike."""
        random = numpy_generator(self.seed, index, MIRRORED)
        flips = {
            name: bool(random.random() < self.mirrored) and name not in ONE_WAY
            for name in dict.fromkeys(thing.concept for thing in scene.objects)
        }
        return replace(
            scene, objects=tuple(replace(thing, flip=flips[thing.concept]) for thing in scene.objects)
        )

    def _draw(self, kind: str, random: np.random.Generator) -> Scene:
        style = STYLES[random.integers(len(STYLES))]
        grounds = list(COLOURS)
        ground = grounds[random.integers(len(grounds))]
        if kind not in ("one", "silhouette") and random.random() < 0.4:
            ground = "white"
        if kind == "one" and ground == "white":
            ground = grounds[random.integers(1, len(grounds))]  # without ground: the single images themselves
        colour = None
        if kind == "silhouette":
            seen = [name for name in grounds if _distance(name, ground) > 120]
            colour = seen[random.integers(len(seen))]
        pool = self.things if kind in ("one", "silhouette") else self._several
        first, second = (pool[i] for i in random.choice(len(pool), 2, replace=False))
        mirrored = random.random() < 0.5
        number = int(random.integers(2, 5))
        match kind:
            case "one" | "silhouette":
                objects = (Placed(first, 0, 0, SIZE),)
            case "count":
                places = {2: [(0, 64), (128, 64)], 3: [(64, 0), (0, 128), (128, 128)]}
                places[4] = [(0, 0), (128, 0), (0, 128), (128, 128)]
                objects = tuple(Placed(first, x, y, HALF) for x, y in places[number])
            case "above":
                objects = (Placed(first, 64, 0, HALF), Placed(second, 64, 128, HALF))
            case "size" if mirrored:
                objects = (Placed(first, 96, 64, BIG), Placed(second, 0, 128, SMALL))
            case "size":
                objects = (Placed(first, 0, 64, BIG), Placed(second, 160, 128, SMALL))
            case _:
                objects = (Placed(first, 0, 64, HALF), Placed(second, 128, 64, HALF))
        captions = scene_captions(kind, [thing.concept for thing in objects], ground, colour, style)
        return Scene(
            kind=kind, style=style.name, ground=ground, colour=colour, objects=objects, captions=captions
        )

    def _resize(self, row: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Colours on white, side side 3, and opacity in [0, 1], side side 1, of an image at another size."""
        parts = []
        for plane in (self._images[row], self._alpha[row]):
            picture = Image.fromarray(np.asarray(plane)).resize((side, side), Image.Resampling.BOX)
            parts.append(np.asarray(picture, np.float32))
        return parts[0], parts[1][..., None] / 255


def is_held_out(scene: Scene) -> bool:
    """Tell whether a scene shows a combination that training scenes never show, by the hash of its words."""
    things = sorted({thing.concept for thing in scene.objects})
    if len(things) == 2:
        words = things
    elif scene.kind == "count":
        words = [*things, str(len(scene.objects))]
    else:
        words = [*things, scene.colour or scene.ground]
    return int(hashlib.sha1("+".join(words).encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


def _distance(name: str, other: str) -> float:
    return float(np.linalg.norm(np.subtract(COLOURS[name], COLOURS[other])))
