"""`sana train --help` names the recipes that take an option, and no others."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import get_args, get_type_hints

import pytest

from sanakit.cli.train import RECIPES, train

# Option of the command -> the parameter of recipes. Those that nearly all recipes take name none.
OPTIONS = {
    **{name: name for name in ("teacher", "autoencoder", "resolution", "batch_size", "rank", "caption")},
    **{name: name for name in ("judge", "algorithm", "whole", "plan")},
    **{"class_prompt": "class_prompts", "repeat": "repeats", "reward": "rewards"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_help_names_the_recipes_that_take_an_option(option: str) -> None:
    told = get_args(get_type_hints(train, include_extras=True)[option])[1].help
    named = re.findall(r"[a-z0-9-]+", " ".join(re.findall(r"\(([^)]*)\)", told)))
    taking = {
        name
        for name, (module, function) in RECIPES.items()
        if OPTIONS[option] in inspect.signature(getattr(import_module(module), function)).parameters
    }
    assert {name for name in named if name in RECIPES} == taking
