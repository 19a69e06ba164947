"""A host program may have called torch.set_default_dtype: no tensor of ours takes its dtype from there.

Exempt are first values of parameters, which follow torch's own layers.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MAKERS = ("zeros", "ones", "empty", "full", "rand", "randn", "linspace", "logspace", "eye")
TAKERS = ("tensor", "as_tensor", "arange")  # of the default dtype where they are given fractions


def relying(text: str) -> list[str]:
    """Calls of torch that take their dtype from the process, in a module's text."""
    tree = ast.parse(text)
    parameters = {id(node.args[0]) for node in calls(tree) if name_of(node) == "Parameter" and node.args}
    found = []
    for node in calls(tree):
        if not isinstance(node.func, ast.Attribute) or ast.unparse(node.func.value) != "torch":
            continue
        told = {keyword.arg for keyword in node.keywords} & {"dtype", "out", None}
        makes = node.func.attr in MAKERS or (node.func.attr in TAKERS and has_fractions(node))
        if makes and not told and id(node) not in parameters:
            found.append(ast.unparse(node))
    return found


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def has_fractions(call: ast.Call) -> bool:
    """Whether an argument holds a fraction, as far as its text tells."""
    return any(
        (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.Call) and name_of(node) == "float")
        or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div))
        for argument in call.args
        for node in ast.walk(argument)
    )


def test_every_tensor_that_is_made_has_its_dtype_told(repository: Path) -> None:
    found = {
        str(path.relative_to(repository)): places
        for path in sorted((repository / "sanakit").rglob("*.py"))
        if (places := relying(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.zeros(3)",
        "torch.randn((2, 2), generator=g)",
        "torch.tensor([0.5])",
        "torch.tensor([float(x) for x in y], device=d)",
        "torch.as_tensor([1 / n])",
        "f(torch.full((2,), t))",
    ],
)
def test_a_tensor_of_the_default_dtype_is_found(line: str) -> None:
    assert len(relying(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.zeros(3, dtype=torch.float32)",
        "torch.zeros(3, **made)",
        "nn.Parameter(torch.empty(3))",
        "torch.tensor([1, 2])",
        "torch.arange(n)",
        "x.new_zeros(3)",
    ],
)
def test_a_tensor_of_a_known_dtype_is_not(line: str) -> None:
    assert relying(line) == []
