"""A user's own defaults for options: a file, and variables of the environment, which take precedence.

    ~/.config/sanakit/config.toml          model = "./photos"       # of every command that has the option
                                           [generate]
                                           steps = 14               # of one command
    SANAKIT_MODEL, SANAKIT_GENERATE_STEPS  the same two

The command line counts more than either. A key that no command has is refused in the file, and told in the
environment, where other programs may have put it.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sanakit.cli.typer_seams import Commands
from sanakit.errors import SettingsError

PREFIX = "SANAKIT_"
OTHERS = ("KERNELS", "COMFYUI", "COMFYUI_PYTHON")  # variables of this prefix that are not defaults
Defaults = dict[str, Any]  # of a command's options by parameter, and of its subcommands by name


def config_file(environment: Mapping[str, str]) -> Path:
    """Return where the file of defaults lies, if there is one: below XDG_CONFIG_HOME or ~/.config."""
    home = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "sanakit" / "config.toml"


def read_defaults(commands: Commands, environment: Mapping[str, str]) -> Defaults:
    """Return the defaults that a user has set. commands: by their names, with the names of their options.

    Raises SettingsError for a file that cannot be read or names what does not exist. Unknown variables are
    told on standard error.
    """
    found: Defaults = {}
    path = config_file(environment)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): mend it or remove it.") from None
    if text:
        _from_file(text, path, commands, found)
    _from_environment(environment, commands, found)
    return found


def _from_file(text: str, path: Path, commands: Commands, found: Defaults) -> None:
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML ({error}): mend it or remove it.") from None
    tables = {name: value for name, value in content.items() if isinstance(value, dict)}
    for name, value in content.items():
        if name not in tables and not _set_everywhere(_parameter(name), value, commands, found):
            raise SettingsError(_unknown(f"{path}: {name}", _parameter(name), _options(commands)))
    for command, table in tables.items():
        if command not in commands:
            raise SettingsError(_unknown(f"{path}: [{command}]", command, commands))
        for name, value in table.items():
            if _parameter(name) not in commands[command]:
                raise SettingsError(
                    _unknown(f"{path}: [{command}] {name}", _parameter(name), commands[command])
                )
            _set(command, _parameter(name), value, found)


def _from_environment(environment: Mapping[str, str], commands: Commands, found: Defaults) -> None:
    ours = {name[len(PREFIX) :]: value for name, value in environment.items() if name.startswith(PREFIX)}
    single: list[tuple[str, str, str]] = []
    for name, value in ours.items():
        if name in OTHERS:
            continue
        own = [
            (command, option, value)
            for command, options in commands.items()
            for option in options
            if name == f"{command}_{option}".replace(" ", "_").replace("-", "_").upper()
        ]
        single += own
        if not own and not _set_everywhere(name.lower(), value, commands, found):
            known = [PREFIX + option.upper() for option in _options(commands)]
            print(f"Warning: {_unknown(PREFIX + name, PREFIX + name, known)}", file=sys.stderr)
    for command, option, value in single:  # what is said of one command counts more
        _set(command, option, value, found)


def _set_everywhere(option: str, value: Any, commands: Commands, found: Defaults) -> bool:
    """Set an option of every command that has it, and return whether one does."""
    having = [command for command, options in commands.items() if option in options]
    for command in having:
        _set(command, option, value, found)
    return bool(having)


def _set(command: str, option: str, value: Any, found: Defaults) -> None:
    place = found
    for name in command.split():
        place = place.setdefault(name, {})
    place[option] = value


def _parameter(name: str) -> str:
    return name.replace("-", "_")


def _options(commands: Commands) -> set[str]:
    return {option for options in commands.values() for option in options}


def _unknown(where: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"{where} is not a setting" + (f": did you mean {near[0]}?" if near else ".")


def set_by(command: str, option: str, environment: Mapping[str, str]) -> str:
    """Return where a command's option got its value if it was not typed: a variable's name, or the file's."""
    for name in (f"{command}_{option}", option):
        variable = PREFIX + name.replace(" ", "_").replace("-", "_").upper()
        if variable in environment:
            return variable
    return os.fspath(config_file(environment))
