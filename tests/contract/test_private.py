"""What a library keeps to itself is used in one file for each library, so that a new release breaks one file.

Private is a name with an underscore before it, in torch or in a module of torch, and what the files listed
below exist for.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT, files, module_name

TORCH = "sanakit/ops/torch_private.py"
# What stands in no file but those: pattern -> the files.
SEAMS = {
    r"__mro__|typer\._|format_message\(": ("sanakit/cli/typer_seams.py",),
    r"from gradio\.routes|preprocess_data|/proxy=": ("sanakit/serve/web/gradio_seams.py",),
    r"uvicorn\.(Server|Config)|from uvicorn": (
        "sanakit/serve/uvicorn_seams.py",
        "sanakit/serve/http/connection.py",
    ),
}


def private_names(tree: ast.AST) -> list[str]:
    """Return the private names of torch in a file: `torch.cpu._x`, `from torch.z import _w`, `x._version`."""
    roots = set()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {
                (alias.asname or "torch") for alias in node.names if alias.name.split(".")[0] == "torch"
            }
            found += [alias.name for alias in node.names if re.match(r"torch\b.*\._[a-z]", alias.name)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            roots |= {alias.asname or alias.name for alias in node.names}
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if re.search(r"\._[a-z]", name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr):
            base = node.value
            while isinstance(base, ast.Attribute):
                base = base.value
            of_torch = isinstance(base, ast.Name) and base.id in roots
            if of_torch or node.attr == "_version":
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("import torch\ntorch.cpu._is_vnni_supported()", True),
        ("import torch.distributed as dist\ndist.distributed_c10d._get_default_store()", True),
        ("from torch._dynamo import config", True),
        ("import torch._dynamo.config as config", True),
        ("from torch.nn.modules import _functions", True),
        ("x._version", True),
        ("import torch\ntorch.cpu.is_available()", False),
        ("from torch import nn\nself._weights = nn.Linear(1, 1)", False),
    ],
)
def test_the_rule_itself_tells_private_from_public(line: str, private: bool) -> None:
    assert bool(private_names(ast.parse(line))) is private


@pytest.mark.parametrize("path", files(), ids=module_name)
def test_private_torch_stands_in_one_file(path: Path) -> None:
    names = private_names(ast.parse(path.read_text(encoding="utf-8")))
    if path == ROOT / TORCH:
        assert names
    else:
        assert names == [], f"use {TORCH}"


@pytest.mark.parametrize(("pattern", "homes"), SEAMS.items())
def test_what_other_libraries_keep_to_themselves_stands_in_one_file(
    pattern: str, homes: tuple[str, ...]
) -> None:
    using = {
        path.relative_to(ROOT).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert using == set(homes)
