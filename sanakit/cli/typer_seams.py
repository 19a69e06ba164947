"""All uses of typer's undocumented parts, so that a new release can break only this file.

typer carries its own copy of click, whose exceptions and commands it exports in part.
`tests/cli/test_typer_seams.py` calls all of it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import typer
from typer.main import get_command

# The parent of all mistakes in a command line; typer exports some of its children.
UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])


class Option(NamedTuple):
    """An option of a command: the parameter that it fills, whether it may be repeated, or takes no value."""

    parameter: str
    repeated: bool = False
    switch: bool = False


# A command's words behind `sana` -> its options, by their long names without dashes in front.
Commands = Mapping[str, Mapping[str, Option]]
_COMPLETE = "_SANA_COMPLETE"  # the variable by which a shell asks for completions


def click_command(app: typer.Typer) -> Any:
    """Return what typer makes of the commands: it is called with the words.

    An option that is typed twice though it has one value is told on standard error, and the last one counts,
    as of an alias and what is typed behind it. An empty path is refused, which would be the current folder.
    """
    command = get_command(app)
    _watch(command)
    return command


def _watch(command: Any) -> None:
    """Have a command and all below it look at the words that were typed, as `click_command` says."""
    for below in getattr(command, "commands", {}).values():
        _watch(below)
    make_parser = command.make_parser

    def made(context: Any) -> Any:
        parser = make_parser(context)
        parse = parser.parse_args

        def parsed(args: list[str]) -> tuple[dict[str, Any], list[str], list[Any]]:
            values, rest, typed = parse(args)
            for param, times in Counter(typed).items():
                value, name = values.get(param.name), max(param.opts, key=len)
                if value == "" and param.type_descriptor.is_path:
                    raise typer.BadParameter("It is empty: name a file or a folder.", context, param)
                contradicts = not getattr(param, "is_flag", False) or bool(param.secondary_opts)
                if times > 1 and param.param_type_name == "option" and not param.multiple and contradicts:
                    print(f"Warning: {name} is given {times} times: the last one counts.", file=sys.stderr)
            return values, rest, typed

        parser.parse_args = parsed
        return parser

    command.make_parser = made


def option_names(command: Any, words: str = "") -> Commands:
    """Return the options of a command and of all below it. command: a click command."""
    below: dict[str, Any] = getattr(command, "commands", {})
    found: dict[str, Mapping[str, Option]] = {}
    if words:
        found[words] = {
            name[2:]: Option(one.name, one.multiple, one.is_flag)
            for one in command.params
            if one.param_type_name == "option"
            for name in one.opts
            if name.startswith("--")
        }
    for name, sub in below.items():
        found |= option_names(sub, f"{words} {name}".strip())
    return found


def completion_script(shell: str) -> str:
    """Return the script that completes `sana` in a shell. shell: bash, zsh or fish."""
    from typer._completion_shared import get_completion_script

    return get_completion_script(prog_name="sana", complete_var=_COMPLETE, shell=shell)


def enable_completion(environment: Mapping[str, str]) -> None:
    """Let the command answer a shell that asks for completions, if one does."""
    if environment.get(_COMPLETE):
        from typer._completion_classes import completion_init

        completion_init()


def usage_sentence(error: Any, *, answered: bool = False) -> str:
    """Return what is wrong with a command line, and the command that shows what is allowed.

    error: a UsageError. answered: the caller says what to use instead, so no option is guessed.
    """
    if answered and getattr(error, "possibilities", None):
        error.possibilities = None
    message = error.format_message().replace("Value error, ", "").replace("'?", "'").rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "sana"
    return f"{message}. `{command} --help` shows what is allowed."


def unknown_option(error: Any) -> tuple[str, str]:
    """Return the command that was given and the option that it does not have; "" where nothing is unknown.

    error: a UsageError.
    """
    command = error.ctx.command_path if error.ctx is not None else ""
    return command, str(getattr(error, "option_name", "")) if hasattr(error, "possibilities") else ""


def options_of(error: Any) -> list[str]:
    """Return the options of the command in which a mistake was made, as they are written."""
    if error.ctx is None:
        return []
    return [name for one in error.ctx.command.params for name in [*one.opts, *one.secondary_opts]]


def wrong_value(error: Any) -> tuple[str, str] | None:
    """Return the command and the name of the option whose default by the user was refused; else None."""
    param = getattr(error, "param", None)
    if param is None or error.ctx is None or param.param_type_name != "option":
        return None
    source = error.ctx.get_parameter_source(param.name)
    if source is None or source.name != "DEFAULT_MAP":
        return None
    return error.ctx.command_path.partition(" ")[2], max(param.opts, key=len).lstrip("-")


def typed_options(context: typer.Context) -> set[str]:
    """Return the parameters of a command that its command line gave, not a default."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def extra_words(error: Any) -> str:
    """Return the words that a command could not use, with blanks between; "" where there are none."""
    found = re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", error.format_message(), re.DOTALL)
    return found[1] if found else ""
