"""`sana train`: run a recipe. What a recipe sets is changed in `recipes/`, not by options here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar
from sanakit.recipes import RECIPES, start


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of {', '.join(RECIPES)}.")],
    output: Annotated[
        Path | None,
        typer.Option(show_default="runs/RECIPE", help="Folder for checkpoint, logs, sheets and the result."),
    ] = None,
    data: Annotated[Path, typer.Option(help="Data set, as `sana data pocket` builds it.")] = Path(
        "data/pocket"
    ),
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, show_default="recipe's own", help="Length of the whole training."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a model by its recipe.

    With --resume it goes on exactly where it stopped. Settings live in sanakit/recipes, not in options.
    """
    folder = output or Path("runs", recipe)
    progress = None
    with progress_bar() as show:
        for progress in start(recipe, data=data, output=folder, steps=steps, resume=resume):
            show(f"loss {progress.loss:.4f}", progress.step, progress.total)
    if as_json:
        print_json({"folder": folder, "last": progress})
    elif progress is None:
        print(f"{folder}  finished already")
    else:
        print(f"{folder}  step {progress.step} of {progress.total}, loss {progress.loss:.4f}")
