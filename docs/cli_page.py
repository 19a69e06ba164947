"""Writes docs/cli.md from the command's own help texts.

    python docs/cli_page.py

A test compares the page with what the command says, so the two cannot drift apart.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# The command

Written by `make docs` from the command's own help: edit the command, not this page.
Results go to standard output, progress to standard error; a mistake in what was asked for ends with one
sentence and exit code 2; `--json` prints a result for machines.
"""
PLAIN = {"TYPER_USE_RICH": "0", "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}


def help_text(*command: str) -> str:
    """What `sana COMMAND --help` prints, without colours and boxes."""
    code = "import sys; sys.argv[0] = 'sana'; from sanakit.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"],
        capture_output=True,
        text=True,
        env=os.environ | PLAIN,
    )
    if result.returncode:
        raise RuntimeError(f"sana {' '.join(command)} --help failed:\n{result.stderr}")
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())


def subcommands(text: str) -> list[str]:
    """Names under the heading `Commands:` of a help text, in its order."""
    _, found, listing = text.partition("\nCommands:\n")
    return re.findall(r"^  ([a-z][a-z0-9-]*)", listing, flags=re.MULTILINE) if found else []


def cli_page() -> str:
    """The whole page: the command, then each of its subcommands, depth first."""
    sections = [HEAD]
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        command = waiting.pop(0)
        text = help_text(*command)
        sections.append(f"## {' '.join(('sana', *command))}\n\n```text\n{text}\n```\n")
        waiting = [(*command, name) for name in subcommands(text)] + waiting
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
    print(f"wrote {PAGE}")
