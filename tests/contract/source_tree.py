"""Reads the import statements of sanakit's own modules, without importing any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sanakit"


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, by its full dotted name, and where the statement stands."""

    module: str
    line: int
    at_top: bool  # runs when the file is imported; False inside a function or under TYPE_CHECKING


def files() -> list[Path]:
    """Every Python file of the package, in a fixed order."""
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name of a file of the package: sanakit/flow/path.py -> sanakit.flow.path."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def file_of(module: str) -> Path | None:
    """The file of a first-party module, or None where the name is not a module of ours."""
    stem = ROOT.joinpath(*module.split("."))
    for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
        if candidate.is_file() and (candidate == PACKAGE / "__init__.py" or PACKAGE in candidate.parents):
            return candidate
    return None


def imports(path: Path) -> list[Import]:
    """All imports of a file, relative ones made absolute, lazy ones inside functions included.

    `from package import name` counts as the module `package.name` where that is one, as the module that
    defines the name where `package/__init__.py` only passes it on, else as `package`.
    """
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = []
    for node, at_top in _walk(ast.parse(path.read_text(encoding="utf-8")), at_top=True):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                found.append(Import(_home_of(source, alias.name, path), node.lineno, at_top))
    return found


def _home_of(source: str, name: str, importer: Path) -> str:
    """The module that `from source import name` leads to."""
    origin = file_of(source)
    if origin is None or origin.name != "__init__.py":
        return source
    if file_of(f"{source}.{name}"):
        return f"{source}.{name}"
    for node in ast.walk(ast.parse(origin.read_text(encoding="utf-8"))):
        passes_on = isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}
        if passes_on and origin not in (importer, PACKAGE / "__init__.py"):
            return node.module or source
    return source


def _walk(node: ast.AST, *, at_top: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from ((inner, False) for inner, _ in _walk(child, at_top=False))
            continue
        inside = at_top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, at_top
        yield from _walk(child, at_top=inside)
