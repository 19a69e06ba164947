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
from typing import Annotated, NoReturn

import typer

from sanakit import __version__
from sanakit.cli.typer_seams import UsageError, unknown_option, usage_sentence
from sanakit.errors import SanaError

MISTAKE, INTERRUPTED = 2, 130


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
        code = command_line()(words, prog_name="sana", standalone_mode=False)
        print(end="", flush=True)
    except SanaError as error:
        if "--debug" in words:
            traceback.print_exception(error)
        code = _complain(str(error))
    except UsageError as error:
        code = _complain(f"{usage_sentence(error)} {_hint(*unknown_option(error))}")
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
    from sanakit.cli import bench, best_of, convert, edit, evaluate, generate, models, quantize, train
    from sanakit.cli.clips import video
    from sanakit.cli.data import group
    from sanakit.cli.serving import keys, serve, ui

    # Plain help texts: rich's take twice as long to appear and eat words in brackets.
    sana = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    sana.callback(invoke_without_command=True)(_sana)
    sana.command()(generate.generate)
    sana.command()(edit.edit)
    sana.command("best-of")(best_of.best_of)
    sana.command()(video.video)
    sana.command("models")(models.list_models)
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
    return sana


def _sana(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """From a sentence to an image or a clip, with the SANA family of models."""
    if version:
        print(f"sana {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _hint(command: str, option: str) -> str:
    """Return what to do instead of an option that a command does not have, where that is known."""
    if command != "sana train":
        return ""
    from sanakit.cli.train import setting_for

    return setting_for(option)


def _complain(sentence: str) -> int:
    """Print a mistake as one paragraph and return its exit code."""
    print(f"Error: {' '.join(sentence.split())}", file=sys.stderr)
    return MISTAKE


def _drop_output() -> None:
    """Send what is still to be printed nowhere, so that Python does not stumble over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
