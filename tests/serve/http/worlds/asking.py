"""Walks over HTTP: entering, moving, and the events of a move."""

from __future__ import annotations

import base64
import io
from typing import Any

from tests.pipelines.world.tiny import photo

FORM: dict[str, Any] = {"prompt": "a red apple", "fov": "60", "seed": "5", "frames": "png"}


def png(width: int = 96, height: int = 64) -> bytes:
    file = io.BytesIO()
    photo(width, height).save(file, "PNG")
    return file.getvalue()


def post(parts: Any, headers: dict[str, str] | None = None, **form: Any) -> Any:
    """Ask for a walk; a value of None leaves a field out."""
    fields = {name: value for name, value in (FORM | form).items() if value is not None}
    return parts.client.post("/v1/worlds", data=fields, files={"image": ("a.png", png())}, headers=headers)


def enter(parts: Any, **form: Any) -> dict[str, Any]:
    answer = post(parts, **form)
    assert answer.status_code == 201, answer.text
    return answer.json()


def move(parts: Any, walk: dict[str, Any], headers: dict[str, str] | None = None, **body: Any) -> Any:
    return parts.client.post(f"/v1/worlds/{walk['id']}/moves", json=body, headers=headers)


def frames(parts: Any, answer: Any) -> list[bytes]:
    """The frames of a stream that ended well."""
    events = parts.events(answer)
    assert [name for name, _ in events if name not in ("world.frame", "world.moment")] == []
    return [base64.b64decode(data["b64_json"]) for name, data in events if name == "world.frame"]


def moments(parts: Any, answer: Any) -> list[dict[str, Any]]:
    return [data["moment"] for name, data in parts.events(answer) if name == "world.moment"]
