"""Variations: the same words, another seed, and a strength that leaves something of the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.serve.engine.engine import Engine
from sanakit.serve.web.history import SHARED, History
from sanakit.serve.web.kept.variations import NUM_VARIATIONS, STRONG, SUBTLE, variation_of
from sanakit.serve.web.studio import Studio
from tests.serve.web.drawing import METADATA, draw

IMAGE = Image.new("RGB", (64, 64), "red")


def test_a_variation_keeps_all_settings_but_the_seed(engine: Engine) -> None:
    others = {"guidance_kind": "apg", "prompt_weights": True, "negative_prompt": "a dog"}
    wish, edit = variation_of(METADATA | others, IMAGE, engine.specs["pocket"], {"ink": 0.5}, SUBTLE)
    assert (wish.prompt, wish.negative_prompt, wish.prompt_weights) == ("a red apple", "a dog", True)
    assert (wish.steps, wish.guidance, wish.solver, wish.guidance_kind) == (7, 3.5, "euler", "apg")
    assert (wish.adapters, wish.num_images) == ({"ink": 0.5}, NUM_VARIATIONS)
    assert int(wish.seed) != METADATA["seed"]
    assert (edit.image, edit.strength) == (IMAGE, SUBTLE)


def test_a_model_of_few_steps_never_forgets_the_image(engine: Engine) -> None:
    sprint = replace(engine.specs["pocket"], guidance_embed=True)
    for steps, strength in ((2, 0.5), (3, 2 / 3)):
        _, edit = variation_of(METADATA | {"steps": steps}, IMAGE, sprint, {}, STRONG)
        assert edit.strength == pytest.approx(strength)
    with pytest.raises(SettingsError, match="draws in one step"):
        variation_of(METADATA | {"steps": 1}, IMAGE, sprint, {}, SUBTLE)


def test_strong_variations_differ_more_than_subtle_ones(engine: Engine, history: History) -> None:
    spec, made = engine.specs["pocket"], METADATA | {"steps": 3, "solver": "dpm", "guidance": 2.5}
    means = []
    for strength in (SUBTLE, STRONG):
        wish, edit = variation_of(made, IMAGE, spec, {}, strength)
        (name,) = draw(Studio(engine, history), replace(wish, seed="5", num_images=1), edit)[-1].names
        with Image.open(history.file(SHARED, name)) as drawn:
            means.append(np.abs(np.asarray(drawn, dtype=float) - np.asarray(IMAGE)).mean())
    assert 0 < means[0] < means[1]
