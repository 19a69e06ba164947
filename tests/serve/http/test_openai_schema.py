"""The server against its own /openapi.json: requests that a machine makes up, right and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks

load_all_checks()
CHECKS = [
    schemathesis.checks.CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
]
EXAMPLES = 12  # of each operation and mode


@pytest.fixture
def schema(parts: Any) -> Any:
    return parts.client.get("/openapi.json").json()


def operations(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": found
        for path, item in schema["paths"].items()
        for method, found in item.items()
    }


def test_each_operation_tells_its_errors_and_whether_it_needs_a_key(schema: dict[str, Any]) -> None:
    for name, found in operations(schema).items():
        assert found["summary"], name
        assert "422" not in found["responses"]
        if "/v1/" in name:
            assert {"400", "401", "429", "500", "503"} <= found["responses"].keys() or "pictures" in name, (
                name
            )
            assert ("security" in found) == ("pictures" not in name), name
    assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


def test_streams_forms_and_examples_are_described(schema: dict[str, Any]) -> None:
    found = operations(schema)["POST /v1/images/generations"]
    assert "text/event-stream" in found["responses"]["200"]["content"]
    assert "seeded" in found["requestBody"]["content"]["application/json"]["examples"]
    form = operations(schema)["POST /v1/images/edits"]["requestBody"]["content"]["multipart/form-data"][
        "schema"
    ]
    fields = schema["components"]["schemas"][form["$ref"].rpartition("/")[2]]
    assert {"image", "mask", "prompt", "strength", "seed"} <= fields["properties"].keys()
    assert fields["required"] == ["image", "prompt"]


@pytest.mark.parametrize("most", [7, 200, 5000])
def test_the_most_steps_are_this_servers(make_parts: Callable[..., Any], most: int) -> None:
    models = make_parts(max_steps=most).client.get("/openapi.json").json()["components"]["schemas"]
    limits = [
        models["EditForm"]["properties"]["steps"]["maximum"],
        models["GenerationRequest"]["properties"]["steps"]["anyOf"][0]["maximum"],
    ]
    assert limits == [min(most, 1000)] * 2


def test_all_references_lead_somewhere(schema: dict[str, Any]) -> None:
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    named = {reference.rpartition("/")[2] for reference in references(schema)}
    assert named <= schema["components"]["schemas"].keys()


@pytest.mark.thorough
@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_made_up_requests_find_no_server_error_and_no_undocumented_answer(
    make_parts: Callable[..., Any], mode: GenerationMode
) -> None:
    # Without keys: else most of the made-up ones would end at the door.
    parts = make_parts(no_auth=True, max_steps=1, max_side=64, body_limit=100_000, max_jobs=10_000)
    schema = schemathesis.openapi.from_asgi("/openapi.json", parts.app, headers={"Host": "127.0.0.1"})
    statuses: set[int] = set()
    probed = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.path.endswith("/edits"):
            continue  # the tool cannot send its own wrong files; ours are in test_http_images

        def probe(case: Any) -> None:
            answer = case.call(headers={"Host": "127.0.0.1"})
            statuses.add(answer.status_code)
            case.validate_response(answer, checks=CHECKS)

        with suppress(Unsatisfiable):  # nothing about it can be wrong: it takes nothing
            run(operation.as_strategy(generation_mode=mode), probe)
            probed += 1
    assert probed >= 8
    assert 200 in statuses or mode is GenerationMode.NEGATIVE
    assert 400 in statuses


def run(strategy: Any, probe: Callable[[Any], None]) -> None:
    """Try some examples of a strategy, the same ones every time."""
    bounded = settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    bounded(given(strategy)(probe))()
