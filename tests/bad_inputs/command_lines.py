"""Bad command lines: a sound one of each command, with one or two of its words changed or added.

The options are those that the command itself declares. Not tried: `serve` and `ui`, which would listen,
`bench`, and trainings and data sets that would begin; of those, only options out of their range.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bad_inputs.tiny import make_images, make_prompts
from bad_inputs.trial import Attempt, Refused, Wrong

WORDS = (
    "",
    " ",
    "x",
    "-1",
    "0",
    "1e9",
    "nan",
    "inf",
    "99999999999999999999",
    "None",
    "--",
    "-",
    "true",
    "\n",
)
WORDS = (
    *WORDS,
    "a\0b",
    "\ud83d",
    "é" * 300,
    "a" * 5000,
    "[]",
    "{}",
    "0x0",
    "64x",
    "64x64x64",
    "100x100",
    "1x1",
    *(
        "1e400",
        "-0",
        "0x10",
        "1_000",
        "+7",
        " 7",
        "7.0",
        ".5",
        "1e-400",
        "-inf",
        "\u0661\u0662",
        "\uff11",
        "\u00b2",
    ),
    *(
        "\u202e7",
        "\ufeff7",
        "\udc80",
        "/dev/null",
        "/dev/full",
        "..",
        "~",
        "$HOME",
        "*",
        "pipe",
        "circle",
        "file",
    ),
)
PATHS = ("nowhere/x.png", "x.tiff", "x", "", ".", "a" * 300 + ".png", "a\0b.png", "folder.png", "file/x.png")
PATHS = (
    *PATHS,
    "circle.png",
    "circle",
    "circle/x.png",
    "pipe",
    "pipe.png",
    "/dev/full",
    "/dev/null",
    "\udcff.png",
)
PATHS = (*PATHS, "/proc/x.png", "/proc/x", "full.png", "a\nb.png", "-x.png", " .png", ".png", "..")
READ_ONLY = (Path("/proc"),)  # nobody can write there, root neither
# Would begin something long if they were sound.
BEGINS = ("serve", "ui", "bench", "train", "evaluate", "data pocket", "data caption", "data score")
LEFT_OUT = ("--help", "--debug", "--compile")  # a traceback by request; minutes


@dataclass(frozen=True)
class Ready:
    """A model, and files to name."""

    model: Path
    images: Path
    prompts: Path
    commands: dict[str, Any]  # "data cache" -> its click command


def prepare(folder: Path, model: Path) -> Ready:
    """Read what options there are."""
    import typer.main

    from sanakit.cli import command_line

    found: dict[str, Any] = {}

    def walk(name: str, command: Any) -> None:
        for word, inner in getattr(command, "commands", {}).items():
            walk(f"{name} {word}".strip(), inner)
        if not hasattr(command, "commands"):
            found[name] = command

    walk("", typer.main.get_command(command_line()))
    return Ready(model, make_images(folder / "images"), make_prompts(folder / "prompts.jsonl", 3), found)


def attempt(rng: random.Random, ready: Ready, place: Path) -> Attempt:
    """Take a sound command and spoil it."""
    Path("folder.png").mkdir()
    Path("file").write_text("regular")
    os.mkfifo("pipe")
    os.mkfifo("pipe.png")
    for name, target in (("circle", "circle"), ("circle.png", "circle.png"), ("full.png", "/dev/full")):
        Path(name).symlink_to(target)
    name = rng.choice(sorted(ready.commands))
    words, how, invalid = _sound(rng, name, ready), "", False
    begins = name.startswith(BEGINS)
    for _ in range(rng.choice((1, 1, 2))):
        change = _out_of_range if begins else rng.choice((_out_of_range, _option, _word, _path, _unknown))
        words, more, wrong = change(rng, words, ready.commands[name])
        how, invalid = f"{how} {more}", invalid or wrong
    if begins and not invalid:  # it has no numbers to spoil
        words, invalid = [*words, "--no-such-option"], True
    words = [*name.split(), *words]
    shown = " ".join(repr(word) if len(word) < 80 else f"{word[:20]!r}..." for word in words)
    if not begins and not invalid and rng.random() < 0.15:
        room = rng.choice((0, 1, 100, 4096))
        return Attempt(
            f"sana {shown}  (room for {room} bytes a file; {how.strip()})",
            lambda: _cramped(room, words),
            writes=READ_ONLY,
        )
    return Attempt(f"sana {shown}  ({how.strip()})", lambda: run_command(*words), invalid, writes=READ_ONLY)


def _cramped(room: int, words: list[str]) -> list[str]:
    """Run a command where files cannot grow beyond so many bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        return run_command(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run_command(*words: str) -> list[str]:
    """Run `sana` in this process; return what it told on standard error. Raises Refused, Wrong."""
    from sanakit.cli import main

    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            code = end.code or 0
    told = err.getvalue()
    if code == 2:
        if "Error: " not in told or told.count("\n") > 3:
            raise Wrong(f"not one sentence: {told[:300]!r}")
        raise Refused(told)
    if code != 0 or "Traceback" in told:
        raise Wrong(f"exit code {code}: {told[-300:]!r}")
    return told.splitlines()


def _sound(rng: random.Random, name: str, ready: Ready) -> list[str]:
    """Return words that this command takes, and that take a moment."""
    model = ["--model", str(ready.model)]
    drawing = ["--steps", "1", "--seed", "1", "--device", "cpu"]
    image = str(ready.images / "00.png")
    return {
        "generate": rng.choice(
            (
                ["a red apple", *model, *drawing, "--size", "64", "--output", "out.png"],
                ["--prompts", str(ready.prompts), *model, "--device", "cpu", "--output", "out"],
            )
        ),
        "edit": [image, "a red apple", *model, *drawing, "--strength", "1", "--output", "out.png"],
        "best-of": ["a red apple", *model, *drawing, "--size", "64", "--count", "2", "--output", "out.png"],
        "inspect": [str(ready.model)],
        "convert": [str(ready.model), "out", "--to", "diffusers"],
        "quantize": [str(ready.model), "out", "--plan", "int8"],
        "evaluate": [str(ready.model), "--output", "out"],
        "data cache": [str(ready.images), "out", *model, "--device", "cpu"],
        "data caption": [str(ready.images)],
        "data score": [str(ready.images)],
        "keys create": ["name", "--data", "out"],
        "keys revoke": ["name", "--data", "out"],
        "keys list": ["--data", "out"],
        "train": ["finetune", "--data", str(ready.images), "--source", str(ready.model), "--output", "out"],
    }.get(name, [])


def _options(command: Any) -> list[Any]:
    options = [one for one in command.params if one.param_type_name == "option"]
    return [one for one in options if not set(one.opts) & set(LEFT_OUT)]


def _out_of_range(rng: random.Random, words: list[str], command: Any) -> tuple[list[str], str, bool]:
    """Give a number that the option's own range leaves out."""
    ranged = [one for one in _options(command) if one.min is not None]
    if not ranged:
        return [*words, "--no-such-option"], "unknown option", True
    option = rng.choice(ranged)
    value = rng.choice((option.min - 1, -(10**30), "x", "", "1.5.5", float("nan")))
    return [*words, f"{option.opts[0]}={value}"], "a number out of its range", value == value


def _option(rng: random.Random, words: list[str], command: Any) -> tuple[list[str], str, bool]:
    """Give any option any word."""
    if not (options := _options(command)):
        return _unknown(rng, words, command)
    option = rng.choice(options)
    if option.is_flag:
        return [*words, option.opts[0]], "a flag", False
    if option.opts[0] in ("--data", "--output"):  # places stay in the working folder
        return _path(rng, words, command)
    return [*words, f"{option.opts[0]}={rng.choice(WORDS)}"], "a strange value", False


def _word(rng: random.Random, words: list[str], command: Any) -> tuple[list[str], str, bool]:
    """Replace, add or drop a word that is not an option's name."""
    places = [n for n, word in enumerate(words) if not word.startswith("-") and "out" not in word]
    if not places or rng.random() < 0.3:
        return [*words, rng.choice(WORDS)], "a word too many", False
    where = rng.choice(places)
    if rng.random() < 0.3:
        return words[:where] + words[where + 1 :], "a word missing", False
    return words[:where] + [rng.choice(WORDS)] + words[where + 1 :], "another word", False


def _path(rng: random.Random, words: list[str], command: Any) -> tuple[list[str], str, bool]:
    """Name a place where nothing can be written."""
    if "--output" not in {name for one in _options(command) for name in one.opts}:
        return _unknown(rng, words, command)
    return [*words, "--output", rng.choice(PATHS)], "a strange output", False


def _unknown(rng: random.Random, words: list[str], command: Any) -> tuple[list[str], str, bool]:
    name = rng.choice(("--colour", "--num_images", "-Q", "--step-s", "---", "--model-", "--débug"))
    return [*words, f"{name}=1" if rng.random() < 0.5 else name], "an unknown option", True
