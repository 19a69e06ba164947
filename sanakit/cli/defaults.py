"""A user's own defaults for options: a file, and variables of the environment, which take precedence.

    ~/.config/sanakit/config.toml     steps = 14              # of the commands that draw images
                                      [evaluate]
                                      device = "cuda"         # of one command
    SANAKIT_STEPS, SANAKIT_EVALUATE_DEVICE                    # the same two

The command line counts more than either. Options that belong to one call, such as a seed, have no defaults.
A key that does not exist is refused in the file, and told in the environment, where other programs may have
put it. true and false are values of switches alone, such as compile; else 14 and "14" are the same.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sanakit.cli.typer_seams import Commands, Option
from sanakit.errors import SettingsError

PREFIX = "SANAKIT_"
OTHERS = ("KERNELS", "COMFYUI", "COMFYUI_PYTHON")  # variables of this prefix that are not defaults
DRAWING = ("generate", "edit", "best-of")  # commands that keys without a table are for
# Options of one call: they exclude each other, name its files, or say what becomes of its result.
OF_A_CALL = frozenset(
    (
        *("help", "debug", "json", "yes", "overwrite", "resume", "smoke", "seed", "num-images", "num-clips"),
        *("size", "width", "height", "frames", "seconds", "image", "clip", "mask", "expand", "strength"),
        *("prompts", "cluster", "control", "control-kind", "control-scale", "control-range", "images"),
        *("control-model", "reference", "count", "keep", "preview", "output", "from"),
        *("edit", "path", "camera", "fov", "intrinsics"),
    )
)
Defaults = dict[str, Any]  # of a command's options by parameter, and of its subcommands by name


def config_file(environment: Mapping[str, str]) -> Path:
    """Return where the file of defaults lies, if there is one: below XDG_CONFIG_HOME or ~/.config."""
    home = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "sanakit" / "config.toml"


def read_defaults(commands: Commands, environment: Mapping[str, str]) -> Defaults:
    """Return the defaults that a user has set. commands: by their names, with their options by name.

    Raises SettingsError for a file that cannot be read or names what does not exist. Unknown variables are
    told on standard error.
    """
    offered = {
        command: {name: option for name, option in options.items() if name not in OF_A_CALL}
        for command, options in commands.items()
    }
    found: Defaults = {}
    path = config_file(environment)
    try:
        text = path.read_text(encoding="utf-8-sig") if os.path.lexists(path) else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): mend it or remove it."
        ) from None
    if text:
        _from_file(text, path, offered, found)
    _from_environment(environment, offered, found)
    return found


def _from_file(text: str, path: Path, commands: Commands, found: Defaults) -> None:
    import tomllib

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML ({error}): mend it or remove it.") from None
    tables = {name: value for name, value in content.items() if isinstance(value, dict)}
    for group, table in [*tables.items()]:  # [data.cache] is [data cache]
        of_group = {name: value for name, value in table.items() if f"{group} {name}" in commands}
        tables |= {f"{group} {name}": value for name, value in of_group.items() if isinstance(value, dict)}
        if table and len(of_group) == len(table):
            del tables[group]
    for name, value in content.items():
        if isinstance(value, dict):
            continue
        having = [commands[command] for command in DRAWING if _spelt(name) in commands.get(command, ())]
        if not having:
            having = [command for command in commands if _spelt(name) in commands[command]]
            if having:
                table = having[0].replace(" ", ".")  # as TOML has it
                raise SettingsError(
                    f"{path}: {name} is not a setting of {', '.join(DRAWING)}: write it below [{table}]."
                )
            raise SettingsError(_unknown(f"{path}: {name}", name, _drawing(commands)))
        written = _written(value, having[0][_spelt(name)], f"{path}: {name}")
        _set_where_drawn(_spelt(name), written, commands, found)
    for command, table in tables.items():
        if command not in commands:
            raise SettingsError(_unknown(f"{path}: [{command}]", command, commands))
        for name, value in table.items():
            if _spelt(name) not in commands[command]:
                raise SettingsError(_unknown(f"{path}: [{command}] {name}", name, commands[command]))
            option = commands[command][_spelt(name)]
            _set(command, option, _written(value, option, f"{path}: [{command}] {name}"), found)


def _written(value: Any, option: Option, where: str) -> Any:
    """Return a value of the file as one types it: text, a list of texts, or true and false of a switch.

    Raises SettingsError for true and false elsewhere, which would pass for 1 and 0.
    """
    if isinstance(value, list) and option.repeated:
        return [_written(one, option, where) for one in value]
    if isinstance(value, bool) and not option.switch:
        raise SettingsError(f"{where} = {str(value).lower()}, but it takes a value: write that.")
    return value if isinstance(value, bool) else str(value)


def _from_environment(environment: Mapping[str, str], commands: Commands, found: Defaults) -> None:
    ours = {name[len(PREFIX) :]: value for name, value in environment.items() if name.startswith(PREFIX)}
    single: list[tuple[str, Option, str]] = []
    for name, value in ours.items():
        if name in OTHERS:
            continue
        own = [
            (command, option, value)
            for command, options in commands.items()
            for written, option in options.items()
            if name == _variable(f"{command} {written}")
        ]
        single += own
        if not own and not _set_where_drawn(_spelt(name), value, commands, found):
            known = [PREFIX + _variable(option) for option in _drawing(commands)]
            known += [
                PREFIX + _variable(f"{command} {option}")
                for command in commands
                for option in commands[command]
            ]
            called = next((one for one in commands if name.startswith(_variable(one) + "_")), "")
            asked = name[len(called) + 1 :] if called else name
            print(f"Warning: {_unknown(PREFIX + name, PREFIX + name, known, asked)}", file=sys.stderr)
    for command, option, value in single:  # what is said of one command counts more
        _set(command, option, value, found)


def _set_where_drawn(name: str, value: Any, commands: Commands, found: Defaults) -> bool:
    """Set an option of the commands that draw images, and return whether one of them has it."""
    having = [command for command in DRAWING if name in commands.get(command, ())]
    for command in having:
        _set(command, commands[command][name], value, found)
    return bool(having)


def _set(command: str, option: Option, value: Any, found: Defaults) -> None:
    place = found
    for name in command.split():
        place = place.setdefault(name, {})
    place[option.parameter] = [value] if option.repeated and not isinstance(value, list) else value


def _spelt(name: str) -> str:
    return name.replace("_", "-").lower()


def _variable(words: str) -> str:
    return words.replace(" ", "_").replace("-", "_").upper()


def _drawing(commands: Commands) -> set[str]:
    return {option for command in DRAWING for option in commands.get(command, ())}


def _unknown(where: str, name: str, known: Iterable[str], option: str | None = None) -> str:
    """Return a sentence on a name that is not a setting. option: the part of it that names one; None: all."""
    if _spelt(option or name) in OF_A_CALL:
        return f"{where} is not a default but an option of one call: give it there."
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"{where} is not a setting" + (f": did you mean {near[0]}?" if near else ".")


def set_by(command: str, option: str, environment: Mapping[str, str]) -> str:
    """Return where a command's option got its value if it was not typed: a variable's name, or the file's."""
    for name in (f"{command} {option}", option):
        if PREFIX + _variable(name) in environment:
            return PREFIX + _variable(name)
    return os.fspath(config_file(environment))
