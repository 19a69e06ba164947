"""Images that the server failed to draw do not count for a key's day; what its owner stopped does."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sanakit.errors import NumericsError, OutputError, RefusedError, StoppedError, StorageError
from sanakit.models.sana import Sana
from sanakit.serve.http.access import Caller
from sanakit.serve.jobs.database import now

FEW = 3  # images a day


@pytest.fixture
def few(parts: Any) -> Any:
    """The application, called with a key of few images a day."""
    parts.client.headers = {"Authorization": f"Bearer {parts.keys.create('few', per_day=FEW)}"}
    return parts


def used(parts: Any) -> int:
    return parts.keys.used(now().date()).get(parts.keys.list()[0].id, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [NumericsError("NaN"), ZeroDivisionError()], ids=repr)
def test_a_drawing_that_fails_is_not_charged(
    few: Any, monkeypatch: pytest.MonkeyPatch, stream: bool, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Sana, "velocity", fail)
        for _ in range(2):
            answer = few.draw(n=FEW, stream=stream)
            assert answer.status_code != 429
            assert stream or answer.status_code >= 400
    assert used(few) == 0
    assert few.draw(n=FEW).status_code == 200
    assert few.draw().status_code == 429


def test_an_image_that_cannot_be_kept_is_not_charged(few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OutputError("The disk is full.")

    monkeypatch.setattr(few.store, "put", full)
    assert few.draw(n=FEW, response_format="url").status_code == 503
    assert used(few) == 0


def test_what_a_filter_refused_and_what_came_too_late_for_its_own_deadline_is_charged(
    few: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RefusedError("no apples", "apples")

    with monkeypatch.context() as patch:
        patch.setattr(few.engine, "prompt_filter", refuse)
        assert few.draw(prompt="an apple").status_code == 400
    assert used(few) == 1
    assert few.draw(steps=200, deadline=0.001).status_code == 504
    assert used(few) == 2


def test_who_left_is_charged_and_a_database_that_is_gone_hides_no_first_error(
    few: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, caller = few.app.state.service.access, Caller(few.keys.named("few"))
    access.charge(caller, 2)
    access.refund_failed(caller, 2, StoppedError("The client has left."))
    assert used(few) == 2
    access.refund_failed(caller, 2, NumericsError("NaN"))
    assert used(few) == 0

    def gone(*_: Any) -> None:
        raise StorageError("The database is locked.")

    monkeypatch.setattr(few.keys, "refund", gone)
    access.refund_failed(caller, 2, NumericsError("NaN"))
    access.refund_failed(Caller(None), 2, NumericsError("NaN"))


def test_a_job_that_fails_is_not_charged(few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NumericsError("NaN")

    monkeypatch.setattr(Sana, "velocity", fail)
    body = {"prompt": "a red apple", "size": "64x64", "steps": 2, "n": FEW}
    job = few.client.post("/v1/jobs", json=body).json()
    assert used(few) == FEW
    few.runner.start()
    until = time.monotonic() + 20
    while few.client.get(f"/v1/jobs/{job['id']}").json()["status"] != "failed":
        assert time.monotonic() < until
        time.sleep(0.02)
    assert used(few) == 0
