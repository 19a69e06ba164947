"""A reward for composed scenes by PocketEval's judge: how much of a question holds, in [0, 1].

PocketEval counts an image when everything holds. Between two images that both fail, that tells nothing, and
a prompt whose images all fail teaches nothing. So each condition counts by itself, and as far as it holds:

- things: those asked for and seen, over all that are asked for or seen
- ground: 1 or 0; so the colour of a silhouette
- order (left, above): how far apart the middles are that way, less how far the other way, over a quarter
  of the image, from 0 to 1
- size: the larger side over the smaller one, from 0 at equal sides to 1 at the factor of PocketEval

The score is their mean; where PocketEval says yes it is 1. Shapes: B images of 256 x 256.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.pocket.data.palette import ground_of, silhouette_of
from sanakit.pocket.evaluate.judge import SceneJudge, Thing
from sanakit.pocket.evaluate.pocket_eval import LARGER, Question, holds

APART = 64.0  # px, a quarter of the image: from there on things stand clearly apart


class SceneReward:
    """Scores images of known questions. judge: on any device. Raises SettingsError for an unknown prompt."""

    name = "scenes"

    def __init__(self, judge: SceneJudge, questions: Sequence[Question]) -> None:
        self.judge = judge
        self.questions = {question.prompt: question for question in questions}

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the scores, B. images: B 3 256 256 in [-1, 1]."""
        for prompt in prompts:
            if prompt not in self.questions:
                raise SettingsError(
                    f"The judge of scenes has no question {prompt[:60]!r}: use its own prompts."
                )
        images = images.float().cpu()
        seen = self.judge.look(images)
        each = zip(prompts, seen, images, strict=True)
        scores = [score(self.questions[prompt], things, image) for prompt, things, image in each]
        return torch.tensor(scores, dtype=torch.float32)


def score(question: Question, things: Sequence[Thing], image: Tensor) -> float:
    """Return how much of a question holds for an image (3 256 256) in which these things were seen."""
    if holds(question, things, image):
        return 1.0
    ground = float(ground_of(image) == question.ground)
    if question.colour is not None:
        parts = [float(len(things) == 1), ground, float(silhouette_of(image) == question.colour)]
        return sum(parts) / len(parts)
    asked, shown = Counter(question.concepts), Counter(thing.concept for thing in things)
    parts = [(asked & shown).total() / max(1, (asked | shown).total()), ground]
    if question.kind in ("left", "above", "size"):
        parts.append(_relation(question, things))
    return sum(parts) / len(parts)


def _relation(question: Question, things: Sequence[Thing]) -> float:
    """Return how clearly the order or the sizes of two things are as asked, in [0, 1]; 0: one is missing."""
    pair = [next((thing for thing in things if thing.concept == name), None) for name in question.concepts]
    first, second = pair
    if first is None or second is None:
        return 0.0
    across, down = second.x - first.x, second.y - first.y
    match question.kind:
        case "left":
            found = (across - abs(down)) / APART
        case "above":
            found = (down - abs(across)) / APART
        case _:
            found = (first.side / second.side - 1) / (LARGER - 1)
    return min(1.0, max(0.0, found))
