"""What is told beside an image reaches whoever asked: body, stream, job and page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from sanakit.pipelines import text_to_image
from sanakit.serve.engine.engine import Engine
from sanakit.text.encoder import TextEncoder
from sanakit.weights.settings import ModelSettings

WAIT = 60  # seconds
OWN = "256x256"  # the embedded model's own size


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the models know nothing of democracy; what they are asked is recorded."""
    seen: list[str] = []

    def unknown(settings: ModelSettings, prompts: Sequence[str], encoder: TextEncoder) -> list[str]:
        seen.extend(prompts)
        return [f'Nothing in "{prompt}" is known.' for prompt in prompts if "democracy" in prompt]

    monkeypatch.setattr(text_to_image, "unknown_prompts", unknown)
    return seen


def test_a_prompt_is_told_to_everyone_who_asks_and_looked_up_once(engine: Engine, asked: list[str]) -> None:
    tickets = [
        engine.submit(
            engine.check(None, prompt, "democracy", width=256, height=256, steps=1, guidance=2, num_images=n)
        )
        for prompt, n in (("democracy, today", 2), ("democracy, today", 1), ("a red apple", 1))
    ]
    told = [ticket.result(WAIT).warnings for ticket in tickets]
    assert told == [['Nothing in "democracy, today" is known.']] * 2 + [[]]
    assert asked.count("democracy, today") == 1
    assert "democracy" not in asked, "negative prompts are not looked up"


def test_a_size_that_was_not_learned_is_told_with_every_picture(engine: Engine) -> None:
    width, height = 320, 64
    assert (height, width) != engine.specs["pocket"].drawn_size(width, height)
    ticket = engine.submit(engine.check(None, "a lemon", width=width, height=height, steps=1))
    result = ticket.result(WAIT)
    assert result.images[0].size == (width, height)
    assert [note.split()[:4] for note in result.warnings] == [["pocket", "did", "not", "learn"]]


def test_the_body_of_an_answer_tells(parts: Any) -> None:
    assert parts.draw(prompt="democracy", size=OWN).json()["warnings"] == ['Nothing in "democracy" is known.']
    assert parts.draw(size=OWN).json()["warnings"] == []


def test_a_stream_tells_with_each_picture_that_is_done(parts: Any) -> None:
    events = parts.events(parts.draw(prompt="democracy", size=OWN, stream=True, n=2))
    assert [data["warnings"] for _, data in events] == [['Nothing in "democracy" is known.']] * 2


def test_a_job_tells_when_it_is_finished(parts: Any) -> None:
    parts.runner.start()
    body = {"prompt": "democracy", "size": OWN, "steps": 1, "n": 2}
    job = parts.client.post("/v1/jobs", json=body).json()
    assert job["warnings"] == []
    until = time.monotonic() + WAIT
    while job["status"] != "finished" and time.monotonic() < until:
        time.sleep(0.05)
        job = parts.client.get(f"/v1/jobs/{job['id']}").json()
    assert job["warnings"] == ['Nothing in "democracy" is known.']


def test_the_page_tells_below_the_picture(parts: Any) -> None:
    pytest.importorskip("gradio")
    from sanakit.serve.web.history import SHARED, History
    from sanakit.serve.web.studio import Studio, Wish
    from sanakit.serve.web.view import status_html

    settings: dict[str, Any] = {"width": 256, "height": 256, "steps": 1, "guidance": 2.5, "solver": "dpm"}
    wish = Wish(model="pocket", prompt="<democracy>", **settings)
    studio = Studio(parts.engine, History(parts.store))

    async def last() -> Any:
        return [view async for view in studio.draw("tab", SHARED, wish)][-1]

    view = asyncio.run(last())
    assert view.state == "done"
    assert "Nothing in &quot;&lt;democracy&gt;&quot; is known." in status_html(view)
