"""Small videos over HTTP, and waiting for them."""

from __future__ import annotations

import time
from typing import Any

SMALL: dict[str, Any] = {"prompt": "a red apple", "frames": 5, "size": "64x64", "steps": 1, "seed": 7}
WAIT = 60  # seconds that nothing here should take


def add(parts: Any, headers: dict[str, str] | None = None, **body: Any) -> Any:
    given = {name: value for name, value in (SMALL | body).items() if value is not None}
    return parts.client.post("/v1/videos", json=given, headers=headers or {})


def settled(parts: Any, video_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Wait for a video's end."""
    if not parts.runner.alive:
        parts.runner.start()
    until = time.monotonic() + WAIT
    address = f"/v1/videos/{video_id}"
    while (video := parts.client.get(address, headers=headers).json())["status"] in ("queued", "in_progress"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return video
