"""Prompts of composed scenes for a reinforcement of pocket, made of words alone: no data set is needed.

Combinations that PocketEval asks for are left out, as in training: what a model gains on them it has not
been rewarded for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sanakit.errors import SettingsError
from sanakit.pocket.data.palette import COLOURS
from sanakit.pocket.data.scenes import Placed, Scene, is_held_out
from sanakit.pocket.evaluate.pocket_eval import KINDS, Question
from sanakit.pocket.words.captions import STYLES
from sanakit.pocket.words.scene_words import SCENE_CONCEPTS, scene_captions
from sanakit.seeds import numpy_generator

COUNTED = (2, 3, 4)


def asked_scenes(count: int, kinds: Mapping[str, float], seed: int = 0) -> list[Question]:
    """Return different questions, none of which is held out. kinds: of PocketEval -> share of the questions.

    Raises SettingsError for other kinds than two, count, left, above, size and ground.
    """
    for kind in kinds:
        if kind not in KINDS or kind in ("object", "silhouette"):
            raise SettingsError(f"Scenes of the kind {kind!r} are not asked for: use two, count, left, ...")
    random, found = numpy_generator(seed, count), dict[str, Question]()
    names, total = list(kinds), sum(kinds.values())
    while len(found) < count:
        kind = names[random.choice(len(names), p=[kinds[name] / total for name in names])]
        one, other = (SCENE_CONCEPTS[i] for i in random.choice(len(SCENE_CONCEPTS), 2, replace=False))
        concepts = (one, other)
        if kind == "ground":
            concepts = (one,)
        elif kind == "count":
            concepts = (one,) * COUNTED[random.integers(len(COUNTED))]
        grounds = list(COLOURS)
        ground = (
            grounds[random.integers(len(grounds))] if random.random() < 0.6 or kind == "ground" else "white"
        )
        said = "one" if kind == "ground" else kind
        captions = scene_captions(said, list(concepts), ground, None, STYLES[0])
        objects = tuple(Placed(concept, 0, 0, 0) for concept in concepts)
        scene = Scene(
            kind=said, style=STYLES[0].name, ground=ground, colour=None, objects=objects, captions=captions
        )
        if not is_held_out(scene):
            question = Question(kind=kind, prompt=captions[0], concepts=concepts, ground=ground)
            found.setdefault(question.prompt, question)
    return list(found.values())


def held_out_scenes(notes: Mapping[str, Any], counts: Mapping[str, int]) -> list[Question]:
    """Return PocketEval's own first questions of each kind. notes: of the judge. counts: by kind."""
    asked: Sequence[Mapping[str, Any]] = notes["questions"]
    questions = [Question(**{**row, "concepts": tuple(row["concepts"])}) for row in asked]
    return [one for kind, count in counts.items() for one in [q for q in questions if q.kind == kind][:count]]
