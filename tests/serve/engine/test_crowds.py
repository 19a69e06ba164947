"""Crowds that do not fit in the memory are split and stay so; steps that fail otherwise are told of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sanakit.errors import BusyError, MemoryLimitError
from sanakit.models.sana import Sana
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.serve.engine import engine as engine_module
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.ticket import Ticket

WAIT = 60  # seconds that nothing here should take
SMALL = {"width": 64, "height": 64, "binned": False}


@pytest.fixture
def engine() -> Iterator[Engine]:
    running = Engine(["pocket"], device="cpu", threads=1)
    running.start()
    yield running
    running.close()


def draw(engine: Engine, **settings: Any) -> Ticket:
    return engine.submit(engine.check(None, "a red apple", **(SMALL | {"steps": 3, "seed": 1} | settings)))


def fails_above(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """Have steps of more images fail; gives the numbers of images of all steps that are tried."""
    whole, tried = Sana.velocity, []

    def velocity(model: Sana, latents: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        tried.append(len(latents))
        if tried[-1] > most:
            raise error
        return whole(model, latents, *rest, **options)

    monkeypatch.setattr(Sana, "velocity", velocity)
    return tried


def crowd(engine: Engine, gate: Any, count: int) -> list[Ticket]:
    """Have so many images begin together, after one that goes alone; wait for all."""
    holder = draw(engine, steps=1)
    assert gate.reached.wait(WAIT)
    tickets = [draw(engine, seed=seed) for seed in range(count)]
    gate.opened.set()
    for ticket in [holder, *tickets]:
        ticket.result(WAIT)
    return tickets


def test_a_crowd_too_large_for_the_memory_is_split_once_and_the_next_request_knows(
    engine: Engine, gate: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = fails_above(monkeypatch, 2, MemoryLimitError("Out of memory while denoising."))
    tickets = crowd(engine, gate, 4)
    assert tried == [1, 4, 2, 2, 2, 2, 2, 2]
    tried.clear()
    draw(engine, num_images=4).result(WAIT)
    assert max(tried) == 2
    assert [line for line in caplog.messages if "at most 2 at once" in line] == caplog.messages
    assert engine.stats()["failed"] == 0
    alone = np.asarray(draw(engine, seed=3).result(WAIT).images[0]).astype(int)
    assert np.abs(np.asarray(tickets[3].result().images[0]) - alone).max() <= 2


def test_an_odd_crowd_is_split_until_it_fits_and_one_that_never_fits_fails_alone(
    engine: Engine, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fails_above(monkeypatch, 1, MemoryLimitError("Out of memory while denoising."))
    crowd(engine, gate, 5)
    assert tried == [1, 5, 2] + [1] * 15
    monkeypatch.undo()
    fails_above(monkeypatch, 0, MemoryLimitError("Out of memory while denoising."))
    with pytest.raises(MemoryLimitError):
        draw(engine).result(WAIT)


def test_a_crowd_that_the_budget_does_not_hold_is_split_like_one_that_ran_out_of_memory(
    engine: Engine, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, planned = TextToImage.plan, []

    def plan(pipe: TextToImage, request: Any, samples: int | None = None) -> Any:
        planned.append(samples)
        if samples is not None and samples > 2:
            raise MemoryLimitError("64x64 px do not fit in 1 GB.")
        return whole(pipe, request, samples)

    monkeypatch.setattr(TextToImage, "plan", plan)
    crowd(engine, gate, 4)
    assert planned.count(4) == 1
    assert engine.stats()["failed"] == 0


def test_another_size_keeps_its_own_limit(engine: Engine, gate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fails_above(monkeypatch, 2, MemoryLimitError("Out of memory while denoising."))
    crowd(engine, gate, 4)
    tried.clear()
    draw(engine, width=128, num_images=4).result(WAIT)
    assert tried[0] == 4


def test_a_crowd_whose_step_fails_is_logged_once_counted_and_drawn_in_smaller_ones(
    engine: Engine, gate: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = fails_above(monkeypatch, 1, RuntimeError("the kernel fails"))
    crowd(engine, gate, 4)
    # the whole, each alone; a pair, each alone, and from then on each alone
    assert tried == [1, 4, 1, 1, 1, 1, 2] + [1] * 8
    traced = [record for record in caplog.records if record.exc_info]
    assert len(traced) == 1
    assert "the kernel fails" in caplog.text
    assert engine.stats()["failed_steps"] == 2
    assert engine.stats()["failed"] == 0


def test_large_images_that_wait_to_be_edited_have_a_limit_of_their_own(
    engine: Engine, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(engine_module, "SOURCE_PIXELS", 3 * 64 * 64)
    image = {"image": Image.new("RGB", (64, 64), "grey"), "width": None, "height": None, "steps": 4}
    running = draw(engine, **image)
    assert gate.reached.wait(WAIT)
    waiting = [draw(engine, **image), draw(engine, **image)]
    with pytest.raises(BusyError, match="edited"):
        draw(engine, **image)
    plain = draw(engine)
    gate.opened.set()
    for ticket in [running, *waiting, plain]:
        ticket.result(WAIT)
    draw(engine, **image).result(WAIT)
