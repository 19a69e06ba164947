"""Features of prompts are kept by model, prompt, side and dialect, as many as there is room for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sanakit.serve.engine import features as module
from sanakit.serve.engine.features import PromptFeatures


class Encoder:
    """Encodes a prompt as its text, and tells which it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool, str]] = []

    def encode(self, prompts: list[str], nulls: list[str], plan: object, dialect: str) -> Any:
        self.asked.append(("".join([*nulls, *prompts]), bool(nulls), dialect))
        return [self.asked[-1]], [f"note {self.asked[-1][0]}"]


def request(*prompts: str, negative: str = "", guided: bool = False, **more: str) -> Any:
    fields = {"texts": [SimpleNamespace(text=one) for one in prompts]}
    fields |= {"nulls": [SimpleNamespace(text=negative)] * guided}
    return SimpleNamespace(**fields, **({"model": "m", "dialect": "diffusers"} | more))


def test_a_prompt_is_encoded_once_for_each_model_side_and_dialect() -> None:
    pipe, kept, begun = Encoder(), PromptFeatures(), []

    def asked(of: Any) -> tuple[Any, Any]:
        pipe.asked.clear()
        return kept.of(pipe, of, None, lambda: begun.append(1))  # pyright: ignore[reportArgumentType]

    features, notes = asked(request("a", "b", negative="n", guided=True))
    assert features == [("n", True, "diffusers"), ("a", False, "diffusers"), ("b", False, "diffusers")]
    assert notes == ["note n", "note a", "note b"]
    assert len(begun) == 3
    assert asked(request("b", "a"))[1] == ["note b", "note a"]
    assert pipe.asked == []
    for other in (request("a", model="other"), request("a", dialect="native"), request("n")):
        asked(other)
        assert len(pipe.asked) == 1


def test_the_prompt_that_was_used_longest_ago_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_PROMPTS", 2)
    pipe, kept = Encoder(), PromptFeatures()
    for prompt in ("a", "b", "a", "c", "a", "b"):
        kept.of(pipe, request(prompt), None, lambda: None)  # pyright: ignore[reportArgumentType]
    assert [text for text, *_ in pipe.asked] == ["a", "b", "c", "b"]
