"""Train the judge of composed scenes (`sanakit.pocket.evaluate.judge`) and write it with its questions.

It learns from scenes of combinations that are not held out. They are moved, scaled, blurred and noised, so
that it tolerates imprecise drawing. Its accuracy is measured on held-out combinations, which it has never
seen. Per cell: cross-entropy over the things, and the error of the size where there is one.
Shapes: B images, halved to 128 x 128 as the judge halves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sanakit.images.image import HALF, to_tensor
from sanakit.images.sheets import contact_sheet
from sanakit.pocket.data.dataset import PocketImages, open_pocket
from sanakit.pocket.data.palette import COLOURS
from sanakit.pocket.data.scenes import Placed, Scene, Scenes
from sanakit.pocket.evaluate.judge import CELL, CELLS, SceneJudge, save_judge
from sanakit.pocket.evaluate.pocket_eval import Question, as_rows, judged, shares
from sanakit.pocket.words.captions import STYLES
from sanakit.pocket.words.concepts import COMMON_CONCEPTS
from sanakit.seeds import numpy_generator
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.parts import Part
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged

SCENES = 10**6  # numbers of scenes to draw from: none comes twice but by chance
SINGLE = 0.25  # share of single images on white
NEAR = 0.26  # of its side: cells whose middle is as near to the thing's middle name it
QUESTIONS = 50  # of each kind
QUESTION_SEED = 2026


@dataclass(frozen=True, slots=True, eq=False)
class JudgeBatch:
    """A part of a batch."""

    images: Tensor  # B 3 128 128
    labels: Tensor  # B 8 8, 0 = nothing
    sizes: Tensor  # B 8 8, log2(side / 128 px)
    total: int  # images in all parts


class JudgeObjective:
    """Name the things of composed scenes; see the module's text. judge: to be trained."""

    def __init__(self, judge: SceneJudge, pocket: PocketImages, *, seed: int = 0) -> None:
        self.model: nn.Module = judge
        self.judge, self.seed = judge, seed
        self.scenes = Scenes(pocket, SCENES, seed=seed)
        self.labels = {name: 1 + number for number, name in enumerate(judge.concepts)}
        self.device = next(judge.parameters()).device
        self.questions, self.answers = ask(pocket)

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Nothing has to be opened."""

    def batch(self, step: int, part: Part) -> JudgeBatch:
        """Compose a part of the batch of a step."""
        samples = [self._sample(step, index) for index in range(part.start, part.stop)]
        images, labels, sizes = (torch.stack(column) for column in zip(*samples, strict=True))
        device = self.device
        return JudgeBatch(images.to(device), labels.to(device), sizes.to(device), part.total)

    def loss(self, batch: JudgeBatch) -> Tensor:
        """Cross-entropy of cells with and without a thing, each kind's own mean, and the error of sizes."""
        logits, sizes = self.judge(batch.images)
        wrong = F.cross_entropy(logits.float(), batch.labels, reduction="none")
        there = batch.labels > 0
        named = (wrong * there).sum((1, 2)) / there.sum((1, 2)).clamp(min=1)
        empty = (wrong * ~there).sum((1, 2)) / (~there).sum((1, 2)).clamp(min=1)
        size = (F.smooth_l1_loss(sizes.float(), batch.sizes, reduction="none") * there).sum((1, 2))
        return (named + 2 * empty + size / there.sum((1, 2)).clamp(min=1)).sum() / batch.total

    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Share of real scenes of held-out combinations that are judged right, by kind."""
        assert isinstance(averaged, SceneJudge)
        right: list[bool] = []
        for start in range(0, len(self.questions), 50):
            part = self.questions[start : start + 50]
            right += judged(averaged, part, to_tensor(self.answers[start : start + 50]))
        return shares(list(zip(self.questions, right, strict=True)))

    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Images as they are learned from."""
        return contact_sheet(self.batch(0, Part(0, 32, 32)).images, 8)

    def _sample(self, step: int, index: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = numpy_generator(self.seed, step, index)
        scene = self.scenes.scene(int(generator.integers(SCENES)))
        if generator.random() < SINGLE:
            names = list(self.labels)
            style = STYLES[generator.integers(len(STYLES))].name
            scene = single(names[generator.integers(len(names))], style)
        scale, (right, down) = generator.uniform(0.85, 1.1), generator.uniform(-20, 20, 2)
        image = F.avg_pool2d(to_tensor(self.scenes.compose(scene)[None]), 2)
        image = _moved(image, scene.ground, scale, right, down)
        image = _worn(image, generator)[0]
        labels = torch.zeros(CELLS, CELLS, dtype=torch.long)
        sizes = torch.zeros(CELLS, CELLS, dtype=torch.float32)
        middles = (torch.arange(CELLS) + 0.5) * CELL
        for thing in scene.objects:
            x = 128 + scale * (thing.x + thing.side / 2 - 128) + right
            y = 128 + scale * (thing.y + thing.side / 2 - 128) + down
            reach = max(NEAR * thing.side * scale, 0.75 * CELL)  # always over the middle of a cell
            near = (middles[:, None] - y) ** 2 + (middles[None] - x) ** 2 <= reach**2
            labels[near] = self.labels[thing.concept]
            sizes[near] = float(np.log2(thing.side * scale / 128))
        return image, labels, sizes


def judge_run(data: Path, config: TrainConfig) -> Run:
    """Train a judge from nothing on the scenes of a data set; it is written with its questions.

    Raises DataError when the data set is missing, damaged or too small for held-out combinations.
    """
    torch.manual_seed(config.seed)
    pocket = open_pocket(data)
    judge = SceneJudge(Scenes(pocket, 1).things).to(training_device())
    objective = JudgeObjective(judge, pocket, seed=config.seed)

    def finish(folder: Path) -> None:
        trained = SceneJudge(judge.concepts).to(objective.device)  # what was trained may be in shards (FSDP2)
        fill_averaged(trained, folder)
        accuracy = objective.evaluate(trained.eval())
        save_judge(folder / MODEL, trained, {"questions": as_rows(objective.questions), "accuracy": accuracy})

    made_with = MadeWith(data=data, content=pocket.fingerprint)
    return Run(objective, config, finish, made_with=made_with)


def single(concept: str, style: str) -> Scene:
    """Return a thing alone on white, as the single images show it."""
    objects = (Placed(concept, 0, 0, 256),)
    captions = (COMMON_CONCEPTS[concept],)
    return Scene(kind="one", style=style, ground="white", colour=None, objects=objects, captions=captions)


def ask(pocket: PocketImages) -> tuple[list[Question], np.ndarray]:
    """Return PocketEval's questions, and real images (256 256 3 uint8 each) that fulfil them."""
    questions, answers = [], []
    composer = Scenes(pocket, SCENES, seed=QUESTION_SEED, held_out=True)
    things = composer.things
    for number, concept in enumerate(things[:: max(1, len(things) // (2 * QUESTIONS))]):
        scene = single(concept, STYLES[number % len(STYLES)].name)
        questions.append(_question("object", scene))
        answers.append(composer.compose(scene))
    for kind in ("one", "silhouette", "two", "count", "left", "above", "size"):
        scenes = Scenes(pocket, QUESTIONS, seed=QUESTION_SEED, held_out=True, kinds=[kind])
        for number in range(QUESTIONS):
            questions.append(_question("ground" if kind == "one" else kind, scenes.scene(number)))
            answers.append(scenes[number])
    return questions, np.stack(answers)


def _question(kind: str, scene: Scene) -> Question:
    concepts = tuple(thing.concept for thing in scene.objects)
    return Question(
        kind=kind, prompt=scene.captions[0], concepts=concepts, ground=scene.ground, colour=scene.colour
    )


def _moved(image: Tensor, ground: str, scale: float, right: float, down: float) -> Tensor:
    """Return an image scaled about its middle and moved by px, more of its ground around it."""
    colour = torch.tensor(COLOURS[ground], dtype=torch.float32).view(1, 3, 1, 1) / HALF - 1
    rows = [[1 / scale, 0, -right / 128 / scale], [0, 1 / scale, -down / 128 / scale]]
    matrix = torch.tensor(rows, dtype=torch.float32)
    grid = F.affine_grid(matrix[None], [1, *image.shape[1:]], align_corners=False)
    return F.grid_sample(image - colour, grid, align_corners=False) + colour


def _worn(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Return an image blurred by up to 5 px, with contrast and brightness changed by 10 %, and noise."""
    width = int(generator.integers(0, 3)) * 2 + 1
    if width > 1:
        image = F.avg_pool2d(F.pad(image, [width // 2] * 4, "replicate"), width, 1)
    low, high = generator.uniform(-0.1, 0.1), generator.uniform(0.9, 1.1)
    noise = torch.from_numpy(generator.standard_normal((1, 3, 32, 32), np.float32))
    grain = F.interpolate(noise * generator.uniform(0, 0.12), scale_factor=4, mode="bilinear")
    return image * high + low + grain
