"""However a request or the engine ends, the others go on and nobody is left waiting."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from sanakit.errors import (
    ClosedError,
    DeadlineError,
    MemoryLimitError,
    NumericsError,
    StoppedError,
)
from sanakit.models.sana import Sana
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.serve.engine import engine as engine_module
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.ticket import Event, Stepped
from tests.serve.engine.asking import SMALL, TOLERANCE, WAIT, draw, picture


def test_a_listener_that_fails_harms_nobody(engine: Engine) -> None:
    def listener(event: Event) -> None:
        raise RuntimeError("the client is gone")

    assert picture(draw(engine, on_event=listener)).std() > 0


def test_cancelling_stops_within_one_step(engine: Engine, gate: Any) -> None:
    events: list[Event] = []
    ticket = draw(engine, steps=1000, on_event=events.append)
    other = draw(engine, "a green frog", steps=2)
    assert gate.reached.wait(WAIT)
    ticket.cancel()
    gate.opened.set()
    with pytest.raises(StoppedError):
        ticket.result(WAIT)
    assert sum(isinstance(event, Stepped) for event in events) <= 1
    other.result(WAIT)
    assert engine.stats()["stopped"] == 1


def test_a_deadline_that_passes_fails_the_request_alone(engine: Engine, gate: Any) -> None:
    late = draw(engine, steps=1000, deadline=0.01)
    other = draw(engine, deadline=WAIT)
    assert gate.reached.wait(WAIT)
    gate.opened.set()
    with pytest.raises(DeadlineError):
        late.result(WAIT)
    other.result(WAIT)


def test_a_sample_that_becomes_nan_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine_module.begin

    def poisoned(transformer: Sana, request, features, known, **more) -> list:
        if "poison" in request.prompts[0]:
            features = [torch.full_like(text, float("nan")) for text in features]
        return whole(transformer, request, features, known, **more)

    monkeypatch.setattr(engine_module, "begin", poisoned)
    healthy, poison = draw(engine, steps=4), draw(engine, "poison", steps=4)
    with pytest.raises(NumericsError, match="NaN"):
        poison.result(WAIT)
    pipe = TextToImage.from_pretrained("pocket", device="cpu")
    alone = pipe("a red apple", **SMALL, steps=4, seed=1).images[0]
    assert np.abs(picture(healthy) - np.asarray(alone).astype(int)).max() <= TOLERANCE


def test_a_request_that_makes_the_model_raise_fails_alone(engine, monkeypatch, gate: Any) -> None:
    whole = Sana.velocity  # behind the gate, which is opened below

    def raising(model, latents, t, context, *rest, **options) -> torch.Tensor:
        if bool((latents.flatten(1).abs().amax(1) > 100).any()):
            raise RuntimeError("bad luck")
        return whole(model, latents, t, context, *rest, **options)

    monkeypatch.setattr(Sana, "velocity", raising)
    holder = draw(engine, steps=1)
    assert gate.reached.wait(WAIT)
    bad_noise = 1000 * torch.ones(1, 32, 2, 2)
    healthy, bad = draw(engine, seed=5, steps=3), draw(engine, latents=bad_noise, steps=3)
    gate.opened.set()
    with pytest.raises(RuntimeError, match="bad luck"):
        bad.result(WAIT)
    assert picture(healthy).std() > 0
    holder.result(WAIT)
    assert engine.stats()["failed"] == 1


def test_a_batch_too_large_for_the_memory_goes_on_in_smaller_ones(engine, monkeypatch, gate: Any) -> None:
    whole = Sana.velocity

    def cramped(model, latents, *rest, **options) -> torch.Tensor:
        if len(latents) > 2:
            raise MemoryLimitError("Out of memory while denoising.")
        return whole(model, latents, *rest, **options)

    monkeypatch.setattr(Sana, "velocity", cramped)
    tickets = [draw(engine, steps=1)]
    assert gate.reached.wait(WAIT)
    tickets += [draw(engine, seed=seed, steps=2) for seed in range(6)]
    gate.opened.set()
    assert all(picture(ticket).std() > 0 for ticket in tickets)
    assert engine.stats()["failed"] == 0


def test_closing_finishes_what_runs_and_takes_no_more(engine: Engine) -> None:
    ticket = draw(engine, steps=10)
    engine.close(drain=WAIT)
    assert picture(ticket).std() > 0
    with pytest.raises(ClosedError):
        draw(engine)


def test_closing_at_once_fails_what_is_left(engine: Engine, gate: Any) -> None:
    tickets = [draw(engine, steps=1000), draw(engine, "a frog", steps=1000)]
    assert gate.reached.wait(WAIT)
    threading.Timer(0.1, gate.opened.set).start()  # `close` waits for the step that is being computed
    engine.close()
    for ticket in tickets:
        with pytest.raises(ClosedError):
            ticket.result(WAIT)


def test_an_engine_that_breaks_down_leaves_nobody_waiting(engine: Engine, gate: Any, monkeypatch) -> None:
    ticket = draw(engine)
    gate.reached.wait(WAIT)
    monkeypatch.setattr(engine.residence, "fits", lambda name, busy: 1 / 0)
    gate.opened.set()
    with pytest.raises(ClosedError):
        ticket.result(WAIT)
    engine._thread.join(WAIT)
    assert not engine.alive
    with pytest.raises(ClosedError):
        draw(engine)
