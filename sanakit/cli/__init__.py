"""The command `sana`, one file per group of commands: parse, call one public function, print its result.

Results go to standard output, progress and warnings to standard error. Exit codes: 0 done, 2 a mistake in
what was requested (one sentence, no traceback), 130 stopped with Ctrl-C, 1 our own mistake (a traceback).
The command files import torch inside their functions only, so help texts need no waiting.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Literal, NoReturn

import typer

from sanakit import __version__
from sanakit.cli.defaults import read_defaults, set_by
from sanakit.cli.other_names import our_command, ours
from sanakit.cli.together import check_alone
from sanakit.cli.typer_seams import (
    UsageError,
    click_command,
    completion_script,
    enable_completion,
    extra_words,
    option_names,
    options_of,
    unknown_option,
    usage_sentence,
    wrong_value,
)
from sanakit.errors import SanaError

MISTAKE, INTERRUPTED = 2, 130
HELP = {"-h", "--help", "--version"}  # answered whatever a user's defaults hold
# Commands that torchrun may start in several processes: they work together, or only tell.
FOR_SEVERAL = ("train", "video", "models", "list", "inspect", "completion", "help")
PROMPTED = ("generate", "best-of", "edit", "video")  # commands that take a sentence


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit. arguments: the words after `sana`, those of the shell by default."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Before torch is imported: it then asks Linux for large pages for large tensors, which saves page faults
    # at large sizes, and half of what a decode leaves as holes in the heap.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no emoji shows their codes instead
            stream.reconfigure(errors="backslashreplace")
    try:
        enable_completion(os.environ)
        command = click_command(command_line())
        asked = bool(HELP & {*words}) or words[:1] == ["help"] or not words
        defaults = {} if asked else read_defaults(option_names(command), os.environ)
        if not asked and words[0] not in FOR_SEVERAL:
            check_alone(f"sana {words[0]}")
        code = command(words, prog_name="sana", standalone_mode=False, default_map=defaults)
        print(end="", flush=True)
    except SanaError as error:
        if "--debug" in words:
            traceback.print_exception(error)
        code = _complain(str(error))
    except UsageError as error:
        hint = _hint(error, words)
        code = _complain(f"{usage_sentence(error, answered=bool(hint))} {hint}")
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough: sana models | head; typer ends so too
        _drop_output()
        code = 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        code = _complain("The disk is full: free space, or send the output elsewhere.")
    if code == INTERRUPTED:
        print("Stopped.", file=sys.stderr)
    sys.exit(code)


def command_line() -> typer.Typer:
    """Build the whole command: `sana` and its subcommands."""
    from sanakit.cli import bench, train
    from sanakit.cli.clips import video, world
    from sanakit.cli.data import group
    from sanakit.cli.drawing import best_of, draw, edit, generate
    from sanakit.cli.evaluation import evaluate
    from sanakit.cli.serving import keys, serve, ui
    from sanakit.cli.weights import convert, disk, models, quantize

    # Plain help texts: rich's take twice as long to appear and eat words in brackets.
    sana = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    sana.callback(invoke_without_command=True)(_sana)
    sana.command()(generate.generate)
    sana.command()(edit.edit)
    sana.command()(draw.draw)
    sana.command("best-of")(best_of.best_of)
    sana.command()(video.video)
    sana.command()(world.world)
    sana.command("models")(models.list_models)
    sana.command()(disk.pull)
    sana.command("list")(disk.list_here)
    sana.command("rm")(disk.remove)
    sana.command("inspect")(models.inspect)
    sana.command()(convert.convert)
    sana.command()(quantize.quantize)
    sana.add_typer(group.commands(), name="data")
    sana.command()(train.train)
    sana.command()(evaluate.evaluate)
    sana.command()(bench.bench)
    sana.command()(serve.serve)
    sana.command()(ui.ui)
    sana.add_typer(keys.commands(), name="keys")
    sana.command()(completion)
    sana.command("help")(show_help)
    return sana


def _sana(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """From a sentence to an image or a clip, with the SANA family of models.

    Begin with: sana generate "a red apple". The things that the model inside knows: sana models pocket. A
    page in the browser: sana ui. All options of a command: sana help COMMAND.
    """
    if version:
        print(f"sana {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def show_help(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", show_default=False, help="A command's name.")
    ] = None,
) -> None:
    """Show what a command does, or all of them."""
    click_command(command_line())([*(words or []), "--help"], prog_name="sana", standalone_mode=False)


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh, fish.")
    ],
) -> None:
    """Print what completes commands and options in a shell.

    bash: add `eval "$(sana completion bash)"` to ~/.bashrc; zsh: the same to ~/.zshrc;
    fish: sana completion fish > ~/.config/fish/completions/sana.fish
    """
    print(completion_script(shell))


def _hint(error: Exception, words: Sequence[str]) -> str:
    """Return what to do instead, where that is known. error: a UsageError. words: of the command line."""
    if set_in_advance := wrong_value(error):
        return f"The value is from {set_by(*set_in_advance, os.environ)}."
    if extra := extra_words(error):
        return _quoted(extra, words)
    if answer := our_command(words):
        return answer
    command, option = unknown_option(error)
    if command == "sana train":
        from sanakit.cli.train import setting_for

        return setting_for(option)
    return ours(option, options_of(error), prompted=command.split()[-1] in PROMPTED if command else False)


def _quoted(extra: str, words: Sequence[str]) -> str:
    """Return how to write a sentence whose words came one by one; "" where that is not the mistake."""
    if not words or words[0] not in PROMPTED:
        return ""
    run = extra.split()
    for start in range(2, len(words)):
        if list(words[start : start + len(run)]) == run and not words[start - 1].startswith("-"):
            return f'Put the sentence in quotes: "{" ".join(words[start - 1 : start + len(run)])}".'
    return ""


def _complain(sentence: str) -> int:
    """Print a mistake as one paragraph and return its exit code."""
    print(f"Error: {' '.join(sentence.split())}", file=sys.stderr)
    return MISTAKE


def _drop_output() -> None:
    """Send what is still to be printed nowhere, so that Python does not stumble over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
