"""Commands that draw take the same options, and say the same of them."""

from __future__ import annotations

import inspect
from typing import Annotated, get_origin

import pytest

from sanakit.cli.drawing import options
from sanakit.cli.drawing.best_of import best_of
from sanakit.cli.drawing.edit import edit
from sanakit.cli.drawing.generate import generate

NAMES = {name for name, value in vars(options).items() if get_origin(value) is Annotated}


@pytest.mark.parametrize("command", [generate, edit, best_of], ids=lambda command: command.__name__)
def test_a_command_that_draws_takes_them_all(command) -> None:
    taken = {parameter.annotation for parameter in inspect.signature(command).parameters.values()}
    of_one_image = set() if command is generate else {"From", "Upscale", "UpscaleModel", "UpscaleStrength"}
    left_out = of_one_image | ({"NumImages"} if command is best_of else set())  # it draws COUNT images
    assert {f"option.{name}" for name in NAMES} - taken == {f"option.{name}" for name in left_out}
