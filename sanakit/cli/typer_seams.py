"""All uses of typer's undocumented parts, so that a new release can break only this file.

typer carries its own copy of click, whose exceptions it exports in part.
`tests/cli/test_typer_seams.py` calls all of it.
"""

from __future__ import annotations

from typing import Any, cast

import typer

# The parent of all mistakes in a command line; typer exports some of its children.
UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])


def usage_sentence(error: Any) -> str:
    """Return what is wrong with a command line, and the command that shows what is allowed.

    error: a UsageError.
    """
    message = error.format_message().replace("Value error, ", "").replace("'?", "'").rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "sana"
    return f"{message}. `{command} --help` shows what is allowed."


def unknown_option(error: Any) -> tuple[str, str]:
    """Return the command that was given and the option that it does not have; "" where nothing is unknown.

    error: a UsageError.
    """
    command = error.ctx.command_path if error.ctx is not None else ""
    return command, str(getattr(error, "option_name", "")) if hasattr(error, "possibilities") else ""
