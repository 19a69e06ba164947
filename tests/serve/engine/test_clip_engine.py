"""The engine of clips: what it draws, in turn; and however a request ends, the others go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sanakit.errors import (
    BusyError,
    ClosedError,
    MemoryLimitError,
    ModelNotFoundError,
    RefusedError,
    SettingsError,
    StoppedError,
    WeightsError,
)
from sanakit.models.video.sana_video import SanaVideo
from sanakit.pipelines.memory import resident_bytes
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.serve.engine.clip_engine import ClipEngine, ClipEvent, ClipTicket, split_models
from sanakit.serve.engine.ticket import Finished, Stepped
from tests.pipelines.video.tiny import DEFAULTS, save_tiny

WAIT = 60  # seconds that nothing here should take
SMALL: dict[str, Any] = {"frames": 5, "width": 64, "height": 64, "steps": 2, "seed": 1}


@pytest.fixture
def make(video_folder: Path) -> Iterator[Callable[..., ClipEngine]]:
    """Start engines; all are stopped at the end, whatever became of the test."""
    engines: list[ClipEngine] = []

    def begin(*more: Path, **settings: Any) -> ClipEngine:
        engine = ClipEngine([str(video_folder), *map(str, more)], device="cpu", threads=1, **settings)
        engine.start()
        engines.append(engine)
        return engine

    yield begin
    for engine in engines:
        engine.close()


class Held:
    """Holds the model of clips at a step until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened, self.calls = threading.Event(), threading.Event(), 0
        whole = SanaVideo.velocity

        def held(*inputs: Any, **options: Any) -> torch.Tensor:
            self.calls += 1
            self.reached.set()
            assert self.opened.wait(WAIT)
            return whole(*inputs, **options)

        monkeypatch.setattr(SanaVideo, "velocity", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    gate = Held(monkeypatch)
    yield gate
    gate.opened.set()


def draw(engine: ClipEngine, prompt: str = "a red apple", **settings: Any) -> ClipTicket:
    told = {name: settings.pop(name) for name in ("on_event", "previews", "name") if name in settings}
    return engine.submit(engine.check(None, prompt, **SMALL | settings), **told)


def test_a_clip_is_the_one_that_the_pipeline_draws_and_its_steps_are_told(
    clip_engine: ClipEngine, video_folder: Path
) -> None:
    events: list[ClipEvent] = []
    ticket = draw(clip_engine, on_event=events.append, previews=True, name="one")
    drawn = ticket.result(WAIT)
    wanted = TextToVideo.from_pretrained(video_folder, device="cpu")("a red apple", **SMALL)  # pyright: ignore
    assert np.array_equal(drawn.frames, wanted.frames)
    assert drawn.metadata == wanted.metadata
    *steps, last = events
    assert [(step.index, step.total) for step in steps if isinstance(step, Stepped)] == [(1, 2), (2, 2)]
    assert isinstance(last, Finished)
    first = steps[0]
    assert isinstance(first, Stepped)
    assert first.preview is not None
    assert (ticket.id, ticket.share, ticket.done) == ("one", 1.0, True)


def test_notes_of_a_drawing_are_in_its_result_and_are_no_warnings_of_the_server(
    clip_engine: ClipEngine,
) -> None:
    """Tests of sanakit fail at a warning, and so would the drawing here."""
    result = draw(clip_engine, "a red apple " * 40, seconds=0.3, frames=None).result(WAIT)
    assert any("5 frames are taken" in note for note in result.warnings)
    assert len(result.warnings) == 2


def test_clips_are_drawn_in_the_order_they_came(clip_engine: ClipEngine) -> None:
    ended: list[str] = []

    def told(event: ClipEvent) -> None:
        if isinstance(event, Finished):
            ended.append(event.ticket.id)

    tickets = [draw(clip_engine, steps=1, on_event=told, name=name) for name in ("a", "b", "c")]
    for ticket in tickets:
        ticket.result(WAIT)
    assert ended == ["a", "b", "c"]


def test_cancelling_stops_a_running_clip_within_one_step_and_a_waiting_one_at_once(
    make: Callable[..., ClipEngine], held: Held
) -> None:
    engine = make()
    running, waiting, other = draw(engine, steps=9), draw(engine), draw(engine, guidance=1.0, steps=1)
    assert held.reached.wait(WAIT)
    waiting.cancel()
    running.cancel()
    held.opened.set()
    for ticket in (running, waiting):
        with pytest.raises(StoppedError):
            ticket.result(WAIT)
    other.result(WAIT)
    assert held.calls <= 1 + 1  # of the step in which it was cancelled, and of the other clip
    counts = engine.stats()
    assert (counts["stopped"], counts["clips"], counts["failed"]) == (2, 1, 0)


def test_what_fails_fails_alone(clip_engine: ClipEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a slip")

    with monkeypatch.context() as patch:
        patch.setattr(TextToVideo, "_draw", broken)
        with pytest.raises(ZeroDivisionError):
            draw(clip_engine).result(WAIT)
    draw(clip_engine, steps=1).result(WAIT)


def test_a_listener_that_fails_harms_nobody(clip_engine: ClipEngine) -> None:
    def listener(event: ClipEvent) -> None:
        raise RuntimeError("the client is gone")

    draw(clip_engine, steps=1, on_event=listener).result(WAIT)


def test_a_full_queue_refuses_and_closing_fails_what_is_left(
    make: Callable[..., ClipEngine], held: Held
) -> None:
    engine = make(max_waiting=1)
    running = draw(engine)
    assert held.reached.wait(WAIT)
    waiting = draw(engine)
    with pytest.raises(BusyError):
        draw(engine)
    assert engine.stats() | {"steps": 0} == {
        **{"waiting": 1, "running": 1, "loaded": ["tiny-video"], "steps": 0, "clips": 0},
        **{"failed": 0, "stopped": 0, "refused": 1},
    }
    threading.Timer(0.2, held.opened.set).start()
    engine.close(drain=0.0)
    for ticket in (running, waiting):
        with pytest.raises(ClosedError):
            ticket.result(WAIT)
    assert not engine.alive
    with pytest.raises(ClosedError):
        draw(engine)


def test_closing_lets_what_there_is_come_to_its_end(make: Callable[..., ClipEngine]) -> None:
    engine = make()
    tickets = [draw(engine, steps=1) for _ in range(2)]
    engine.close(drain=WAIT)
    assert all(ticket.result(0).frames.shape == (5, 64, 64, 3) for ticket in tickets)


def test_filters_see_the_words_and_every_frame(make: Callable[..., ClipEngine]) -> None:
    words, frames = [], []

    def see_words(prompts: list[str], _: str) -> None:
        words.extend(prompts)

    def see_frames(images: list[Any], _: str) -> None:
        frames.extend(images)
        if len(images) > 5:
            raise RefusedError("The image was refused.")

    engine = make(prompt_filter=see_words, image_filter=see_frames)
    draw(engine, steps=1).result(WAIT)
    assert words == ["a red apple"]
    assert [image.size for image in frames] == [(64, 64)] * 5
    with pytest.raises(RefusedError):
        draw(engine, steps=1, frames=9).result(WAIT)


def test_the_model_that_drew_last_stays_in_memory_alone(
    make: Callable[..., ClipEngine], tmp_path: Path
) -> None:
    other = save_tiny(tmp_path / "other")
    ours = (other / "sanakit.json").read_text()
    (other / "sanakit.json").write_text(ours.replace('"tiny-video"', '"other-video"'))
    engine = make(other)
    assert list(engine.specs) == ["tiny-video", "other-video"]
    ticket = engine.submit(engine.check("other-video", "x", **SMALL))  # pyright: ignore[reportArgumentType]
    assert ticket.result(WAIT).metadata[0]["model"] == "other-video"
    assert engine.stats()["loaded"] == ["other-video"]


def test_a_memory_limit_holds_for_clips(make: Callable[..., ClipEngine]) -> None:
    with pytest.raises(MemoryLimitError, match="9 frames of 96x64 px do not fit in 1 MB"):
        make(memory="1MB")
    with pytest.raises(SettingsError, match="memory = 'much'"):
        make(memory="much")
    engine = make(memory=resident_bytes() + 400_000_000)
    draw(engine, steps=1).result(WAIT)
    with pytest.raises(MemoryLimitError, match="253 frames of 1024x1024 px do not fit"):
        draw(engine, frames=253, width=1024, height=1024).result(WAIT)
    draw(engine, steps=1).result(WAIT)


def test_wrong_models_and_settings_are_refused_before_anything_is_drawn(
    clip_engine: ClipEngine, video_folder: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match="there are: tiny-video"):
        clip_engine.check("pocket", "x")
    with pytest.raises(SettingsError, match="use 5 or 9 frames"):
        clip_engine.check(None, "x", frames=8)
    with pytest.raises(SettingsError, match="named 'tiny-video'"):
        ClipEngine([str(video_folder), str(video_folder)])
    with pytest.raises(SettingsError, match="named 'tiny-video'"):
        ClipEngine([str(video_folder)], taken=["tiny-video"])
    with pytest.raises(SettingsError, match="pass at least one"):
        ClipEngine([])
    with pytest.raises(WeightsError, match="model of images"):
        ClipEngine(["pocket"])
    assert DEFAULTS["frames"] == clip_engine.check(None, "x").frames


def test_models_are_told_apart_by_their_folders(video_folder: Path) -> None:
    assert split_models(["pocket", str(video_folder)]) == (["pocket"], [str(video_folder)])
    with pytest.raises(ModelNotFoundError):
        split_models(["no-such-model"])
