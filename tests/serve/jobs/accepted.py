"""Jobs as the server accepts them."""

from __future__ import annotations

from sanakit.serve.jobs.jobs import JobStore

BODY = {"prompt": "a red apple", "seed": 2**63 - 1, "steps": 4}


def add(jobs: JobStore, count: int = 1, key_id: str | None = None) -> list[str]:
    return [jobs.add("generation", BODY, key_id, 1).id for _ in range(count)]
