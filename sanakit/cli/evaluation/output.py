"""Shared by evaluations of images and of clips: the folder of results, the report, networks by name."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

from sanakit.cli.terminal import print_json
from sanakit.errors import OutputError, SettingsError
from sanakit.whole import written_whole

REPORT = "report.json"  # in the output folder


def output_folder(output: Path) -> Path:
    """Make the output folder unless it is there. Raises OutputError."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {output} cannot be made ({error.strerror}): choose another.") from None
    return output


def save_report(folder: Path, report: dict[str, Any]) -> None:
    """Write the report whole or not at all. Raises OutputError."""
    text, path = io.StringIO(), folder / REPORT
    with contextlib.redirect_stdout(text):
        print_json(report)
    try:
        with written_whole(path) as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another folder.") from None


def tell_report(report: dict[str, Any], output: Path | None, *, as_json: bool) -> bool:
    """Tell a report's notes as warnings, save it, and print it as JSON if asked; return whether it was."""
    for note in report["notes"]:
        print(f"Warning: {note}", file=sys.stderr)
    if output is not None:
        save_report(output_folder(output), report)
    if as_json:
        print_json(report)
    return as_json


def places_of_weights(words: list[str]) -> dict[str, str]:
    """Read NAME=PLACE. Raises SettingsError."""
    from sanakit.eval.measures import check_weights

    places: dict[str, str] = {}
    for word in words:
        name, _, place = word.partition("=")
        if not place:
            raise SettingsError(f"--weights {word} names no folder: write it as clip=FOLDER.")
        places[name] = place
    check_weights(list(places))
    return places
