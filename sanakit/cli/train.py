"""`sana train`: run a recipe. Its common settings are options; the others are changed in `recipes/`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sanakit.cli.terminal import AsJson, Debug, logs_on_stderr, print_json, progress_bar
from sanakit.errors import SettingsError
from sanakit.pocket.recipes import RECIPES as OF_POCKET
from sanakit.recipes import RECIPES as GENERAL

if TYPE_CHECKING:
    from sanakit.train.report import Progress

RECIPES = {**OF_POCKET, **GENERAL}
# Names of other programs for settings of `sana train` -> its own: an option, or a setting of the recipe.
CALLED = {
    **{"--lr": "--learning-rate", "--instance-prompt": "--caption", "--prompt": "--caption"},
    **{"--wd": "weight_decay", "--epochs": "--steps", "--max-steps": "--steps"},
    **{"--model": "--source", "--base": "--source", "--init": "--source", "--from": "--source"},
    **{"--batch": "--batch-size", "--bs": "--batch-size", "--size": "--resolution", "--res": "--resolution"},
    **{"--dataset": "--data", "--images": "--data", "--out": "--output", "--continue": "--resume"},
}


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of {', '.join(RECIPES)}.")],
    output: Annotated[
        Path | None,
        typer.Option(
            show_default="runs/RECIPE", help="Folder for checkpoints, logs, contact sheets and the result."
        ),
    ] = None,
    data: Annotated[
        Path,
        typer.Option(
            help="Data set, as `sana data pocket` builds it; or your images: a folder, .tar shards, a "
            "Hugging Face data set."
        ),
    ] = Path("data/pocket"),
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, show_default="recipe's own", help="Steps of the whole training."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Model to start from."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", show_default="none", help="Model to learn from (causal-ode, causal-forcing)."
        ),
    ] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            show_default="the run beside the output",
            help="Autoencoder of clips: the run that trained it, or a model (pocket-video-images, "
            "pocket-video, pocket-world, pocket-world-autoencoder).",
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            min=32,
            show_default="the model's own",
            help="Resolution: side of a square in pixels (finetune, world, lora, dreambooth, control, "
            "sprint-teacher, sprint, causal, causal-chunks, causal-ode, causal-forcing, pretrain, enlarge).",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            show_default="recipe's own",
            help="Images or clips a step (finetune, world, lora, dreambooth, control, sprint-teacher, "
            "sprint, causal, causal-chunks, causal-ode, causal-forcing).",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X", show_default="recipe's own", help="Learning rate (of recipes of one stage)."
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            show_default="recipe's own",
            help="Rank of the adapter (lora, dreambooth, reinforce, pocket-rl).",
        ),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", show_default="their own", help="One caption for all images (lora, dreambooth)."
        ),
    ] = None,
    class_prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            show_default="none",
            help="Prompt that must not be forgotten; repeat it for several (dreambooth; lora only measures).",
        ),
    ] = None,
    repeat: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER=N",
            show_default="once",
            help="Show images of a folder of the data N times an epoch (lora, dreambooth).",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="CLIP",
            show_default="none",
            help="CLIP that scores the class prompts (lora, dreambooth): pocket-clip, a folder, Hub "
            "org/repo; any reward, which is only measured (reinforce, pocket-rl).",
        ),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default="none",
            help="Reward to learn from (reinforce): pocket-clip, clip:PLACE, image-reward, MODULE:FUNCTION, "
            "an address; 0.3*NAME weighs it; repeat it for several.",
        ),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="nft", help="nft, awm or flow-grpo (reinforce, pocket-rl)."
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Train all weights, not an adapter (reinforce, pocket-rl).")
    ] = False,
    plan: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="as stored",
            help="Quantise the model beside the adapter: int8, nf4, ... (lora, dreambooth).",
        ),
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Only two small steps, as a check (not all recipes).")
    ] = False,
    parallel: Annotated[
        Literal["auto", "ddp", "fsdp"] | None,
        typer.Option(show_default="recipe's own", help="How processes started by torchrun share the model."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's checkpoint.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a model by its recipe.

    With --resume it goes on exactly where it stopped. Other settings live in sanakit/recipes.
    """
    from sanakit.train.run import run_recipe

    folder = output or Path("runs", recipe)
    more = {
        "teacher": teacher,
        "autoencoder": autoencoder,
        "learning_rate": learning_rate,
        "rank": rank,
        "caption": caption,
        "class_prompts": tuple(class_prompt) if class_prompt else None,
        "repeats": _repeats(repeat) if repeat else None,
        "judge": judge,
        "plan": plan,
        "rewards": tuple(reward) if reward else None,
        "algorithm": algorithm,
        "whole": whole or None,
    }
    progress = None
    said: set[str] = set()  # lines of notes: the report on the images is one of them
    by_lines = sys.stderr is not None and not sys.stderr.isatty()  # a bar would not show there
    with progress_bar("preparing") as show, logs_on_stderr("sanakit.train", "sanakit.pocket"):
        for progress in run_recipe(
            recipe,
            RECIPES,
            data=data,
            output=folder,
            steps=steps,
            resume=resume,
            source=source,
            resolution=resolution,
            batch_size=batch_size,
            smoke=smoke,
            parallel=parallel,
            more={word: value for word, value in more.items() if value is not None},
        ):
            for note in progress.notes:
                print(note, file=sys.stderr)
            said.update(progress.notes)
            show(_pace(progress), progress.step, progress.total)
            if by_lines:
                print(f"step {progress.step} of {progress.total}, {_pace(progress)}", file=sys.stderr)
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes that torchrun started: the first speaks for all
    from sanakit.train.runs.image_report import read_report

    report = read_report(folder)
    if as_json:
        pictures = {} if report is None else {"pictures": report}
        print_json({"folder": folder, "last": progress} | pictures)
        return
    if progress is None:
        print(f"{folder}  finished already")
    else:
        print(f"{folder}  step {progress.step} of {progress.total}, loss {progress.loss:.4f}")
    for line in [] if report is None else report["summary"].splitlines():
        if line not in said:
            print(line)


def _repeats(given: list[str]) -> dict[str, int]:
    """Return how often the images of folders come, as FOLDER=N says. Raises SettingsError."""
    found: dict[str, int] = {}
    for text in given:
        folder, _, times = text.rpartition("=")
        if not folder or not times.isdecimal() or len(times) > 6:
            raise SettingsError(f"--repeat is {text!r}; write it as FOLDER=N, such as dogs=10.")
        if folder in found:
            raise SettingsError(f"--repeat names the folder {folder!r} twice.")
        found[folder] = int(times)
    return found


def setting_for(option: str) -> str:
    """Return what to do instead of an option that `sana train` does not have; "" where that is not known."""
    from sanakit.train.config import TrainConfig

    name = CALLED.get(option, option.removeprefix("--").replace("-", "_"))
    if name.startswith("--"):
        return f"Use {name}."
    if name not in TrainConfig.__dataclass_fields__:
        return ""
    return f"{name} is a setting of the recipe: change it in sanakit/recipes."


def _pace(progress: Progress) -> str:
    return f"loss {progress.loss:.4f}, {progress.samples_per_second:.1f} samples/s"
