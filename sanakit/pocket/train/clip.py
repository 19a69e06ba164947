"""The pairs that pocket-clip learns from, and its training run.

Half of the images are pocket's own, half composed scenes. Every pair has two wrong captions in the same
words: of a scene the first is wrong in what its kind is about (order, count, colour, ground or a thing), of a
single image it names another thing of the same sort.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from sanakit.models.clip import Clip, ClipConfig
from sanakit.pocket.data.dataset import PocketImages, PocketRow, open_pocket
from sanakit.pocket.data.palette import COLOURS
from sanakit.pocket.data.scenes import Scene, Scenes
from sanakit.pocket.data.sources import SIZE
from sanakit.pocket.words.captions import STYLES
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.pocket.words.scene_words import SCENE_CONCEPTS, scene_captions
from sanakit.seeds import numpy_generator
from sanakit.text.clip import ClipScorer, Preprocessing, train_clip_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.objectives.contrastive import ContrastiveObjective, Pair
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.weights import save_clip

SCENES = 2**31  # as good as endless: a scene is composed when it is requested
TELLING = {"one": "ground", "two": "thing", "count": "number", "silhouette": "colour"}  # others: order
HELD_OUT_PAIRS = 560


class PocketPairs:
    """Draws pairs of pocket's images and composed scenes.

    side: of training images, in pixels. scene_share: of the pairs that are scenes. common_share: of the
    others that show common things. held_out: scenes of combinations that training never shows, and all
    images as they are, 256 px. seed: of the scenes.
    """

    def __init__(
        self,
        pocket: PocketImages,
        side: int,
        *,
        scene_share: float = 0.5,
        common_share: float = 0.75,
        held_out: bool = False,
        seed: int = 0,
    ) -> None:
        self.images, self.rows, self.side = pocket.images, pocket.rows, side
        self.scene_share, self.common_share, self.held_out = scene_share, common_share, held_out
        self.scenes = Scenes(pocket, SCENES, seed, held_out=held_out)
        shown = [i for i, row in enumerate(pocket.rows) if row.split == "train"]
        self.common = [i for i in shown if self.rows[i].concept in COMMON_CONCEPTS]
        self.rare = [i for i in shown if self.rows[i].concept not in COMMON_CONCEPTS] or self.common
        self.designs: dict[str, list[int]] = defaultdict(list)  # concept: its images
        self.sorts: dict[str, list[int]] = defaultdict(list)  # subgroup: its images
        for i in shown:
            self.designs[self.rows[i].concept].append(i)
            self.sorts[self.rows[i].subgroup].append(i)

    def __call__(self, random: np.random.Generator) -> Pair:
        """Draw a pair."""
        return self.draw_scene(random) if random.random() < self.scene_share else self.draw_single(random)

    def draw_scene(self, random: np.random.Generator) -> Pair:
        """Return a composed scene with one of its captions."""
        scene = self.scenes.scene(int(random.integers(SCENES)))
        which = int(random.integers(len(scene.captions)))
        image = self.scenes.compose(scene)
        return Pair(
            image=image if self.held_out else augment(image, random, self.side, mirror=False),
            caption=scene.captions[which],
            wrong=wrong_captions(scene, which, random),
            things=frozenset(thing.concept for thing in scene.objects),
            kind=scene.kind,
        )

    def draw_single(self, random: np.random.Generator) -> Pair:
        """Return an image of the data set with one of its captions."""
        pool = self.common if random.random() < self.common_share else self.rare
        index = pool[random.integers(len(pool))]
        row, image = self.rows[index], np.array(self.images[index])  # off the read-only map
        which = int(random.integers(len(row.captions)))
        return Pair(
            image=image if self.held_out else augment(image, random, self.side, mirror=random.random() < 0.5),
            caption=row.captions[which],
            wrong=self._wrong_words(row, which, random),
            things=frozenset({row.concept}),
            kind="single",
        )

    def _wrong_words(self, row: PocketRow, which: int, random: np.random.Generator) -> tuple[str, str]:
        """Return the caption in another style, if it names one, and captions of similar things."""
        others = [self.rows[i] for i in self.sorts[row.subgroup] if self.rows[i].concept != row.concept]
        others = others or [self.rows[i] for i in self.common if self.rows[i].concept != row.concept]
        drawn = [others[i] for i in random.integers(len(others), size=2)]
        first, second = (other.captions[min(which, len(other.captions) - 1)] for other in drawn)
        styles = [self.rows[i].captions for i in self.designs[row.concept] if self.rows[i].style != row.style]
        same = [captions[which] for captions in styles if len(captions) > which]
        same = [caption for caption in same if caption != row.captions[which]]
        return (first, same[random.integers(len(same))] if same else second)


def wrong_captions(scene: Scene, which: int, random: np.random.Generator) -> tuple[str, str]:
    """Two captions of a scene in the words of its caption `which`, each wrong in one point.

    The first is wrong in what the scene's kind is about: where things are, which is big, how many there are,
    which colour a silhouette or the ground has, or (of two things) which they are.
    """
    telling = TELLING.get(scene.kind, "order")
    further = [point for point in ("thing", "ground", telling) if point != telling or telling == "number"]
    points = (telling, further[random.integers(len(further))])
    first, second = (_said_wrongly(scene, point, random)[which] for point in points)
    while second == first:  # two other counts may be the same one
        second = _said_wrongly(scene, points[1], random)[which]
    return first, second


def _said_wrongly(scene: Scene, point: str, random: np.random.Generator) -> tuple[str, ...]:
    """Return the captions of a scene that differs in one point: thing, ground, colour, number or order."""
    concepts = [thing.concept for thing in scene.objects]
    ground, colour = scene.ground, scene.colour
    match point:
        case "order":
            concepts.reverse()
        case "number":
            others = [n for n in (2, 3, 4) if n != len(concepts)]
            concepts = [concepts[0]] * others[random.integers(len(others))]
        case "thing":
            pool = SCENE_CONCEPTS if scene.kind not in ("one", "silhouette") else tuple(COMMON_CONCEPTS)
            others = [name for name in pool if name not in concepts]
            replaced = concepts[random.integers(len(concepts))]
            other = others[random.integers(len(others))]
            concepts = [other if name == replaced else name for name in concepts]
        case "colour":
            others = [name for name in COLOURS if name not in (colour, ground)]
            colour = others[random.integers(len(others))]
        case _:
            others = [name for name in COLOURS if name not in (ground, colour, "white")]
            ground = others[random.integers(len(others))]
    style = next(style for style in STYLES if style.name == scene.style)
    return scene_captions(scene.kind, concepts, ground, colour, style)


def augment(image: np.ndarray, random: np.random.Generator, side: int, *, mirror: bool) -> np.ndarray:
    """Change an image (H W 3 uint8) without changing what it shows, in the way of small generators' faults.

    A crop of up to 8 % a side, brightness and colour within 12 %, sometimes blur, sometimes noise.
    side: of the result, in pixels. mirror: left and right.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = random.uniform(0, 0.08, 4) * (random.random(4) < 0.7)
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC, box=box)
    if random.random() < 0.3:
        resized = resized.filter(ImageFilter.GaussianBlur(random.uniform(0.2, 0.8)))
    pixels = np.asarray(resized, np.float32)
    pixels = pixels * random.uniform(0.88, 1.05, 3).astype(np.float32) + np.float32(random.uniform(-8, 8))
    if random.random() < 0.2:
        pixels += random.standard_normal(pixels.shape, np.float32) * np.float32(random.uniform(1, 8))
    pixels = pixels[:, ::-1] if mirror else pixels
    return np.ascontiguousarray(pixels.clip(0, 255).round().astype(np.uint8))


def held_out_pairs(pocket: PocketImages, count: int, seed: int = 1) -> list[Pair]:
    """Scenes of held-out combinations and, a fifth, images of common things as they are, to measure on."""
    draw = PocketPairs(pocket, SIZE, scene_share=0.8, common_share=1.0, held_out=True, seed=seed)
    return [draw(numpy_generator(seed, i)) for i in range(count)]


def clip_run(data: Path, output: Path, model: ClipConfig, config: TrainConfig) -> Run:
    """Train a CLIP from nothing on the data set's images and scenes; its tokenizer is learned first.

    The end token and vocabulary of `model` are those that the tokenizer turns out to have.
    Raises DataError when the data set is missing or damaged.
    """
    pocket = open_pocket(data)
    draw = PocketPairs(pocket, model.image_size)
    tokenizer = train_clip_tokenizer(_texts(pocket, draw), model.vocab_size)
    size = tokenizer.get_vocab_size()
    torch.manual_seed(config.seed)
    clip = Clip(replace(model, vocab_size=size, eos_token=size - 1))
    clip.init_weights()
    side = model.image_size
    preprocessing = Preprocessing(size=side, crop=(side, side), mean=(0.5,) * 3, deviation=(0.5,) * 3)
    scorer = ClipScorer(clip.to(training_device()), tokenizer, preprocessing)
    held_out = held_out_pairs(pocket, HELD_OUT_PAIRS)
    objective = ContrastiveObjective(scorer, draw, held_out, seed=config.seed)

    def finish(folder: Path) -> None:
        trained = Clip(clip.config)  # what was trained may be in shards (FSDP2), which take no whole weights
        fill_averaged(trained, folder)
        save_clip(folder / MODEL, ClipScorer(trained, tokenizer, preprocessing), dtype=torch.float16)

    made_with = MadeWith(data=data, content=pocket.fingerprint, choices={"vocab_size": size})
    return Run(objective, config, finish, made_with=made_with)


def _texts(pocket: PocketImages, draw: PocketPairs) -> list[str]:
    """Return the texts for the tokenizer: all captions of images, and of some scenes."""
    scenes = [caption for i in range(2000) for caption in draw.scenes.scene(i).captions]
    return [caption for row in pocket.rows for caption in row.captions] + scenes
