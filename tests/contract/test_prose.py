"""Sentences are read at once: habits that have to be decoded are counted, and their limits only fall.

Texts that users read (errors, help, tooltips, the page) have none of them. Docstrings and comments have at
most the number stated here; a change that removes one lowers its limit.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from source_tree import PACKAGE, files

_BEGIN = r"(?:^|(?<=[.:;]\s))"  # of a sentence, or of a line
_QUOTED = r"[`'\"/_.:,]?\w|[`'\":]\s| =|, \w+:"  # names of arguments, files and keys are no prose
PATTERNS = {
    "is no X, for is not an X": r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer |more |less |room )",
    "can not, for cannot": r"\b[Cc]an not\b",
    "anew, for again or from scratch": r"\banew\b",
    "Give, for Return": r"\AGives?\b",
    "a relative clause as subject": _BEGIN + r"(?:What|Who|Whoever|Whatever) (?!to |not to |.*\?$)",
    "persons and journeys": r"\b(?:doors?|strangers?|parte?d? ways|journeys?)\b",
    "picture, for image": rf"(?<![\w/.`'\"-])[Pp]ictures?\b(?!{_QUOTED})",
}
# Falling: docstrings, comments. Patterns without an entry are at zero.
LIMITS: dict[str, tuple[int, int]] = {}
# Texts that are data there: prompts, names of things, words of other authors.
DATA = ("pocket/", "text/instruction.py", "text/safety.py")
ALLOWED = (
    "Describe this picture for somebody who will draw it",  # asks a model: captions depend on its words
)
# A function's docstring that begins with one of these names a thing; it should say what the function does.
NOUNS = re.compile(r"(?:The|An?|What|Which|Who|Where|Whether|How) ")
RECIPES = ("recipes/", "pocket/recipes/")  # a recipe's docstring is the name of its result


def _documented(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Constant]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            text = first.value if isinstance(first, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield node, text


def _texts(path: Path) -> Iterator[tuple[str, int, str]]:
    """Yield (kind, line, text) of a file: "docstring", "comment" or "text"."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    seen = set()
    for _, text in _documented(tree):
        seen.add(id(text))
        yield "docstring", text.lineno, str(text.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield "comment", token.start[0], token.string.lstrip("# ")
    if path.relative_to(PACKAGE).as_posix().startswith(DATA):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            seen.update(id(part) for part in node.values)
            parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield "text", node.lineno, "".join(parts)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in seen:
            continue
        if " " in node.value and not node.value.startswith(ALLOWED):
            yield "text", node.lineno, node.value


@cache
def found() -> dict[tuple[str, str], list[str]]:
    """Places of every habit, by its name and the kind of text."""
    places = defaultdict(list)
    for path in files():
        for kind, line, text in _texts(path):
            for name, pattern in PATTERNS.items():
                for match in re.finditer(pattern, text, flags=re.MULTILINE):
                    around = " ".join(text[max(0, match.start() - 40) : match.end() + 40].split())
                    places[name, kind].append(f"{path.relative_to(PACKAGE.parent)}:{line}: {around}")
    return places


@pytest.mark.parametrize("name", PATTERNS)
def test_texts_for_users_have_none(name: str) -> None:
    assert found().get((name, "text"), []) == []


@pytest.mark.parametrize("kind", ["docstring", "comment"])
@pytest.mark.parametrize("name", PATTERNS)
def test_the_limit_only_falls(name: str, kind: str) -> None:
    places = found().get((name, kind), [])
    limit = LIMITS.get(name, (0, 0))[kind == "comment"]
    assert len(places) <= limit, "\n".join(places)
    assert len(places) == limit, f"Lower the limit to {len(places)}."


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{} is no folder: choose another.", "is no X, for is not an X"),
        ("There is no folder: choose another.", None),
        ("A picture is drawn.", "picture, for image"),
        ("pictures: B 3 H W; see `picture.py` and output/pictures.", None),
        ("Reads a file. Who opens it finds it whole.", "a relative clause as subject"),
        ("What to draw.", None),
        ("Why is it so? What remains?", None),
        ("Gives the size.", "Give, for Return"),
    ],
)
def test_the_patterns_find_what_they_name(text: str, name: str | None) -> None:
    names = [n for n, pattern in PATTERNS.items() if re.search(pattern, text, flags=re.MULTILINE)]
    assert names == ([] if name is None else [name])


def test_docstrings_of_functions_that_return_something_begin_with_a_verb() -> None:
    nouns = []
    for path in files():
        if path.relative_to(PACKAGE).as_posix().startswith(RECIPES):
            continue
        for node, text in _documented(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.returns is None:
                continue
            if {"property", "cached_property"} & {ast.unparse(one) for one in node.decorator_list}:
                continue
            if ast.unparse(node.returns) != "None" and NOUNS.match(str(text.value)):
                nouns.append(f"{path.relative_to(PACKAGE.parent)}:{text.lineno}: {text.value!s:.60}")
    assert not nouns, "\n".join(nouns)


def test_no_two_public_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for path in files()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []
