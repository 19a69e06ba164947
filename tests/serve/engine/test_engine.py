"""The engine: a crowd draws what each draws alone, and whoever fails, fails alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import (
    BusyError,
    ModelNotFoundError,
    RefusedError,
    SettingsError,
    StoppedError,
)
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.ticket import Event, Failed, Finished, Stepped
from tests.serve.engine.asking import SMALL, TOLERANCE, WAIT, draw, picture

CROWD = [
    {"prompt": "a red apple", "seed": 1, "steps": 3},
    {"prompt": "a green frog", "seed": 2, "steps": 7, "guidance": 4.0},
    {"prompt": "a yellow pear", "seed": 3, "steps": 1, "negative_prompt": "blue"},
    {"prompt": "a red apple", "seed": 4, "steps": 5, "guidance": 1.0},
    {"prompt": "a blue boat", "seed": 5, "steps": 4, "width": 128},
    {"prompt": "a cat", "seed": 6, "steps": 4, "solver": "euler", "num_images": 3},
    {"prompt": "a red apple", "seed": 1, "steps": 3},
]


def test_a_picture_in_a_crowd_is_the_picture_alone(engine: Engine) -> None:
    pipe = TextToImage.from_pretrained("pocket", device="cpu")
    crowd = [{"width": 192, "height": 192} | settings for settings in CROWD]  # smaller ones come out flat
    alone = [pipe(**(SMALL | settings)).images for settings in crowd]
    tickets = [draw(engine, **settings) for settings in crowd]
    for ticket, expected in zip(tickets, alone, strict=True):
        assert len(ticket.result(WAIT).images) == len(expected)
        for number, image in enumerate(expected):
            difference = np.abs(picture(ticket, number) - np.asarray(image).astype(int))
            assert difference.max() <= TOLERANCE
    spreads = [np.asarray(image).std() for images in alone for image in images]
    assert np.median(spreads) > 10 * TOLERANCE  # flat ones could agree by chance


def test_requests_of_one_size_join_a_batch_that_is_running(engine: Engine, gate: Any) -> None:
    first = draw(engine, steps=3)
    assert gate.reached.wait(WAIT)
    second = draw(engine, "a green frog", steps=1)
    gate.opened.set()
    first.result(WAIT)
    second.result(WAIT)
    stats = engine.stats()
    assert (stats["steps"], stats["samples"], stats["pictures"]) == (3, 4, 2)


def test_one_who_asks_for_less_leaves_earlier(engine: Engine, gate: Any) -> None:
    order: list[str] = []
    draw(engine, steps=1)  # holds the engine, so that the next two begin together
    assert gate.reached.wait(WAIT)

    def note(name: str) -> Callable[[Event], None]:
        return lambda event: order.append(name) if isinstance(event, Finished) else None

    long = draw(engine, steps=6, on_event=note("long"))
    short = draw(engine, steps=2, on_event=note("short"))
    gate.opened.set()
    long.result(WAIT)
    short.result(WAIT)
    assert order == ["short", "long"]


def test_a_small_picture_does_not_wait_for_a_large_one(engine: Engine, gate: Any) -> None:
    done: list[int] = []
    large = draw(engine, width=256, height=256, steps=20, on_event=lambda event: done.append(256))
    assert gate.reached.wait(WAIT)
    small = draw(engine, steps=2)
    gate.opened.set()
    small.result(WAIT)
    assert not large.done
    large.result(WAIT)


def test_events_tell_every_step_and_the_end(engine: Engine) -> None:
    events: list[Event] = []
    ticket = draw(engine, steps=3, num_images=2, previews=True, on_event=events.append)
    result = ticket.result(WAIT)
    steps = [(e.number, e.index, e.total) for e in events if isinstance(e, Stepped)]
    assert sorted(steps) == [(picture, step, 3) for picture in (0, 1) for step in (1, 2, 3)]
    previews = [e.preview for e in events if isinstance(e, Stepped) and e.index < 3]
    assert all(isinstance(preview, Image.Image) and preview.size == (16, 16) for preview in previews)
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.result is result
    assert result.seeds == [1, 2]
    assert result.metadata[1]["seed"] == 2
    assert set(result.timings) == {"queue", "draw"}


def test_a_full_queue_refuses_and_goes_on(make_engine, gate: Any) -> None:
    engine = make_engine(max_waiting=2, max_batch=1)
    engine.start()
    running = draw(engine)
    assert gate.reached.wait(WAIT)
    waiting = [draw(engine, seed=seed) for seed in (2, 3)]
    with pytest.raises(BusyError, match="2 images are already waiting"):
        draw(engine)
    assert engine.stats()["waiting"] == 2
    gate.opened.set()
    for ticket in [running, *waiting]:
        ticket.result(WAIT)
    draw(engine).result(WAIT)
    assert engine.stats()["refused"] == 1


def test_filters_refuse_a_prompt_and_a_picture(make_engine) -> None:
    told = []

    def no_frogs(prompts: list[str], name: str) -> None:
        told.append(name)
        if any("frog" in prompt for prompt in prompts):
            raise RefusedError("no frogs", "frogs")

    def not_wide(images: list[Image.Image], name: str) -> None:
        told.append(name)
        if images[0].width > 100:
            raise RefusedError("too wide", "width")

    engine = make_engine(prompt_filter=no_frogs, image_filter=not_wide)
    engine.start()
    tickets = [
        draw(engine, "a green frog"),
        draw(engine, width=128),
        engine.submit(engine.check(None, "x", **SMALL, steps=2), name="req_1"),
    ]
    for ticket in tickets[:2]:
        with pytest.raises(RefusedError):
            ticket.result(WAIT)
    tickets[2].result(WAIT)
    frog, wide = (ticket.id for ticket in tickets[:2])
    assert sorted(told) == sorted([frog, wide, wide, "req_1", "req_1"])


def test_features_of_a_prompt_are_computed_once(engine: Engine, monkeypatch) -> None:
    calls: list[list[str]] = []
    whole = TextToImage.encode

    def counted(pipe, prompts, *rest):
        calls.append(list(prompts))
        return whole(pipe, prompts, *rest)

    monkeypatch.setattr(TextToImage, "encode", counted)
    for seed in (1, 2, 3):
        draw(engine, seed=seed).result(WAIT)
    assert calls == [[], ["a red apple"]]  # the negative prompt, and this one


def test_features_of_one_dialect_never_serve_another(engine: Engine) -> None:
    usual, native, again = (
        picture(draw(engine, "A Red Apple", dialect=name)) for name in ("diffusers", "native", "diffusers")
    )
    assert (usual == again).all()
    assert (usual != native).any()


def test_a_prompt_that_was_cut_is_told_of_every_time(engine: Engine) -> None:
    long = "a red apple on a table " * 400
    for _ in range(2):
        assert "too long" in draw(engine, long).result(WAIT).warnings[0]


def test_a_listener_may_wait_for_others_who_ask_the_engine(engine: Engine, gate: Any) -> None:
    kept_waiting = []

    def on_event(event: Event) -> None:
        if isinstance(event, Failed):
            asking = threading.Thread(target=engine.stats)
            asking.start()
            asking.join(5)
            kept_waiting.append(asking.is_alive())

    request = engine.check(None, "a red apple")
    ticket = engine.submit(request, on_event)
    gate.reached.wait(WAIT)
    ticket.cancel()
    gate.opened.set()
    with pytest.raises(StoppedError):
        ticket.result(WAIT)
    draw(engine).result(WAIT)
    assert kept_waiting == [False]


def test_the_model_that_goes_holds_no_memory_while_the_next_is_loaded(engine: Engine, monkeypatch) -> None:
    draw(engine).result(WAIT)
    engine.residence._loaded.clear()  # as when it made room
    seen = []
    load = TextToImage.from_pretrained

    def loading(*arguments, **settings):
        seen.append(engine._current.part)
        return load(*arguments, **settings)

    monkeypatch.setattr(TextToImage, "from_pretrained", loading)
    draw(engine).result(WAIT)
    assert seen == [()]


def test_pictures_to_start_from_are_drawn_like_any_other(engine: Engine) -> None:
    image = Image.effect_noise((96, 64), 50).convert("RGB")
    mask = Image.new("L", image.size)
    mask.paste(255, (32, 0, 64, 64))
    changed = draw(engine, image=image, strength=0.5, steps=4, width=None, height=None)
    painted = draw(engine, image=image, mask=mask, steps=4, width=None, height=None)
    kept = draw(engine, image=image, strength=0.0, width=None, height=None)
    assert changed.result(WAIT).images[0].size == kept.result(WAIT).images[0].size == (96, 64)
    outside = np.asarray(mask) == 0
    assert np.array_equal(picture(painted)[outside], np.asarray(image)[outside])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"width": 63}, SettingsError),
        ({"steps": 0}, SettingsError),
        ({"guidance": float("nan")}, SettingsError),
        ({"strength": 0.5}, SettingsError),
        ({"mask": Image.new("L", (64, 64))}, SettingsError),
        ({"prompt": "\ud800"}, SettingsError),
    ],
)
def test_nonsense_is_refused_before_it_is_taken(make_engine, settings, error) -> None:
    engine = make_engine()  # never started: no weights are needed
    with pytest.raises(error):
        engine.check(None, **({"prompt": "a red apple"} | settings))


def test_only_the_models_of_the_server_can_be_used(make_engine) -> None:
    engine = make_engine()
    for name in ("sana-1.6b-1024", "../pocket", "", "/etc/passwd"):
        with pytest.raises(ModelNotFoundError, match="pocket"):
            engine.check(name, "a red apple")
    assert engine.check("pocket", "a red apple").model == "pocket"
