"""What the documentation shows is true: help texts, options, examples and code blocks.

A Python block that cannot run here says why in a comment on the line before it, `<!-- not run: REASON -->`;
it is still compiled. Nothing else is left out.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from cli_page import PAGE, cli_page  # noqa: E402

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None  # why it cannot run here

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in TEXTS:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start("code"))
                found.append(Block(page, line, match["language"], match["code"], match["reason"]))
    return found


def sana_lines() -> list[tuple[str, str]]:
    """Every `sana ...` command in the pages' shell blocks, continued lines joined, with its place."""
    found = []
    for block in blocks("bash", "sh", "console"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").strip()
            if words.startswith("torchrun "):
                words = words[words.find("sana ") :]
            if words.startswith("sana "):
                found.append((str(block), words))
    return found


def test_the_pages_hold_something_to_check() -> None:
    """The tests below run over lists; an empty list would pass without a word."""
    assert EXAMPLES
    assert [block for block in blocks("python") if block.reason is None]
    assert sana_lines()


def test_the_command_page_equals_the_commands_own_help() -> None:
    assert PAGE.read_text(encoding="utf-8") == cli_page(), "run: make docs"


@pytest.mark.parametrize(("place", "command"), sana_lines())
def test_commands_in_the_pages_use_options_that_exist(place: str, command: str) -> None:
    words = shlex.split(command, comments=True)
    page = PAGE.read_text(encoding="utf-8")
    sections = re.findall(r"^## (sana[^\n]*)\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S)
    matching = [(title, text) for title, text in sections if words[: len(title.split())] == title.split()]
    title, text = max(matching, key=lambda item: len(item[0]))
    assert words[1:2] == [] or words[1].startswith("-") or title != "sana", f"{place}: no command {words[1]}"
    known = set(re.split(r"[\s,=]+", text))
    missing = [word for word in words if word.startswith("-") and word.split("=")[0] not in known]
    assert missing == [], f"{place}: {title} has no {missing}"


@pytest.mark.thorough
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_at_most_40_lines_and_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name])
    runpy.run_path(str(path), run_name="__main__")
    assert os.listdir(tmp_path), "an example leaves a file to look at"


@pytest.mark.thorough
@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_python_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of one page share their names, as a reader who types them one after another has them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks("python"):
        if block.page == page:
            code = compile("\n" * block.line + block.code, str(page), "exec")
            if block.reason is None:
                exec(code, names)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_make_targets_named_in_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    named = {
        name
        for page in TEXTS
        for name in re.findall(r"(?:^|`|\$ )make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.M)
    }
    assert named
    assert named - targets == set()
