"""OpenAI's own Python client, unmodified, against a server that listens: what a team's code will do."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from PIL import Image

from sanakit.errors import BusyError, NumericsError

Start = Callable[..., Any]


def picture(data: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data or "")))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Running(uvicorn.Server):
    """A server in a thread that says when it listens."""

    def __init__(self, app: Any) -> None:
        super().__init__(
            uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        )
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@pytest.fixture
def start(make_parts: Callable[..., Any]) -> Iterator[Start]:
    """Listen with these settings; gives the parts, with `address`."""
    running = []

    def listen(**settings: Any) -> Any:
        parts = make_parts(**settings)
        server = Running(parts.app)
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        assert server.listening.wait(10)
        port = server.servers[0].sockets[0].getsockname()[1]
        parts.address = f"http://127.0.0.1:{port}"
        return parts

    yield listen
    for server, thread in running:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def parts(start: Start) -> Any:
    return start()


@pytest.fixture
def client(parts: Any) -> Iterator[openai.OpenAI]:
    token = parts.keys.create("team")
    with openai.OpenAI(base_url=f"{parts.address}/v1", api_key=token, max_retries=0) as client:
        yield client


QUICK: Any = {"extra_body": {"steps": 2, "seed": 1}}


def test_it_generates(client: openai.OpenAI) -> None:
    reply = client.images.generate(
        prompt="a red apple",
        model="pocket",
        n=2,
        size="256x256",
        extra_body={"steps": 3, "guidance": 2.0, "seed": 7, "negative_prompt": "green", "solver": "euler"},
    )
    assert isinstance(reply, openai.types.ImagesResponse)
    assert [picture(one.b64_json).size for one in reply.data or []] == [(256, 256)] * 2
    assert [one.model_extra["metadata"]["seed"] for one in reply.data or []] == [7, 8]  # pyright: ignore
    told = (reply.size, reply.output_format, reply.usage and reply.usage.total_tokens)
    assert told == ("256x256", "png", 2 * 8 * 8)
    assert reply.model_extra["warnings"] == []  # pyright: ignore


def test_without_keys_any_key_will_do(parts: Any) -> None:
    with openai.OpenAI(base_url=f"{parts.address}/v1", api_key="none") as client:
        assert client.images.generate(prompt="x", size="64x64", **QUICK).data


def test_every_field_of_the_client_is_understood(client: openai.OpenAI) -> None:
    reply = client.images.generate(
        prompt="a red apple",
        background="opaque",
        moderation="low",
        n=1,
        output_compression=80,
        output_format="webp",
        quality="high",
        response_format="b64_json",
        size="64x64",
        style="vivid",
        user="u-1",
        **QUICK,
    )
    assert picture(reply.data[0].b64_json).format == "WEBP"  # pyright: ignore


def test_it_gets_addresses_that_work(client: openai.OpenAI) -> None:
    reply = client.images.generate(prompt="a red apple", size="64x64", response_format="url", **QUICK)
    answer = httpx.get(reply.data[0].url or "")  # pyright: ignore
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)


@pytest.mark.parametrize("as_list", [False, True])
def test_it_edits_with_a_mask(client: openai.OpenAI, as_list: bool) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    mask = Image.new("RGBA", (96, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 48, 64))
    image: Any = ("photo.png", png(noise))
    reply = client.images.edit(
        image=[image] if as_list else image, mask=("mask.png", png(mask)), prompt="a red apple", n=1, **QUICK
    )
    drawn = np.asarray(picture(reply.data[0].b64_json))  # pyright: ignore
    assert (drawn[:, 48:] == np.asarray(noise)[:, 48:]).all()
    assert (drawn[:, :48] != np.asarray(noise)[:, :48]).mean() > 0.5


def test_it_streams(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        prompt="a red apple", size="256x256", stream=True, partial_images=2, extra_body={"steps": 6}
    )
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    assert isinstance(events[0], openai.types.ImageGenPartialImageEvent)
    assert isinstance(events[2], openai.types.ImageGenCompletedEvent)
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # pyright: ignore
    assert picture(events[2].b64_json).size == (256, 256)
    assert events[2].usage.output_tokens == 8 * 8


def test_it_streams_edits(client: openai.OpenAI) -> None:
    image = ("a.png", png(Image.new("RGB", (64, 64), "grey")))
    stream = client.images.edit(
        image=image, prompt="an apple", stream=True, partial_images=1, extra_body={"steps": 4}
    )
    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_it_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pocket"]
    assert client.models.retrieve("pocket").owned_by == "sanakit"


def test_its_async_twin_draws_several_at_once(parts: Any, client: openai.OpenAI) -> None:
    async def several() -> list[openai.types.ImagesResponse]:
        async with openai.AsyncOpenAI(base_url=f"{parts.address}/v1", api_key=client.api_key) as twin:
            drawn = [twin.images.generate(prompt="a red apple", size="64x64", **QUICK) for _ in range(3)]
            return await asyncio.gather(*drawn)

    first, *others = [np.asarray(picture(reply.data[0].b64_json), int) for reply in asyncio.run(several())]  # pyright: ignore
    assert all(abs(other - first).max() <= 2 for other in others)


def test_errors_are_the_clients_own_classes(
    parts: Any, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt="x", size="63x64")  # pyright: ignore
    assert (bad.value.code, bad.value.param, bad.value.type) == (
        "invalid_size",
        "size",
        "invalid_request_error",
    )
    assert bad.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="x", model="dall-e-3")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").images.generate(prompt="x")
    limited = client.with_options(api_key=parts.keys.create("few", per_day=1))
    limited.images.generate(prompt="x", size="64x64", **QUICK)
    with pytest.raises(openai.RateLimitError) as over:
        limited.images.generate(prompt="x", size="64x64", **QUICK)
    assert int(over.value.response.headers["Retry-After"]) > 0

    def full(*_: Any, **__: Any) -> None:
        raise BusyError("full")

    monkeypatch.setattr(parts.engine, "submit", full)
    with pytest.raises(openai.InternalServerError) as busy:
        client.images.generate(prompt="x", size="64x64", **QUICK)
    assert busy.value.status_code == 503


def test_a_stream_that_fails_raises_in_the_client(client: openai.OpenAI) -> None:
    body = {"steps": 200, "deadline": 0.05}
    stream = client.images.generate(prompt="x", size="64x64", stream=True, extra_body=body)
    with pytest.raises(openai.APIError, match="not finished before its deadline"):
        list(stream)


def test_a_stream_that_is_closed_stops_the_drawing(parts: Any, client: openai.OpenAI) -> None:
    stopped = parts.engine.stats()["stopped"]
    stream = client.images.generate(
        prompt="x", size="64x64", stream=True, partial_images=3, extra_body={"steps": 200}
    )
    next(iter(stream))
    stream.close()
    deadline = threading.Event()
    for _ in range(200):
        if parts.engine.stats()["stopped"] > stopped:
            break
        deadline.wait(0.02)
    assert parts.engine.stats()["stopped"] == stopped + 1
    assert parts.engine.stats()["running"] == 0


def test_it_asks_again_only_where_that_helps(
    parts: Any, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own retries: a deadline and NaN stay one request each, a full queue gets a second chance."""
    patient = client.with_options(max_retries=2)
    submit, requests = parts.engine.submit, []

    def counted(*given: Any, **options: Any) -> Any:
        requests.append(given)
        return submit(*given, **options)

    monkeypatch.setattr(parts.engine, "submit", counted)
    with pytest.raises(openai.InternalServerError) as late:
        patient.images.generate(prompt="x", size="64x64", extra_body={"steps": 200, "deadline": 0.05})
    assert (late.value.status_code, len(requests)) == (504, 1)

    def failing(error: Exception) -> Any:
        def fail(*given: Any, **options: Any) -> Any:
            requests.append(given)
            if len(requests) == 1:
                raise error
            return submit(*given, **options)

        return fail

    for error, times in ((NumericsError("NaN"), 1), (RuntimeError("a slip"), 1), (BusyError("full"), 2)):
        requests.clear()
        monkeypatch.setattr(parts.engine, "submit", failing(error))
        if times == 1:
            with pytest.raises(openai.InternalServerError):
                patient.images.generate(prompt="x", size="64x64", **QUICK)
        else:
            assert patient.images.generate(prompt="x", size="64x64", **QUICK).data
        assert len(requests) == times


def test_it_does_not_ask_again_today_when_the_days_pictures_are_spent(
    parts: Any, client: openai.OpenAI
) -> None:
    limited = client.with_options(api_key=parts.keys.create("few", per_day=1), max_retries=2)
    limited.images.generate(prompt="x", size="64x64", **QUICK)
    with pytest.raises(openai.RateLimitError) as over:
        limited.images.generate(prompt="x", size="64x64", **QUICK)
    patience = int(over.value.response.headers["Retry-After"])
    assert over.value.response.headers["X-Should-Retry"] == ("false" if patience > 60 else "true")


def test_a_wrong_method_is_told_all_that_the_address_takes(parts: Any) -> None:
    for path, allowed in {
        "/v1/jobs": "GET, POST",
        "/v1/jobs/job_1": "DELETE, GET",
        "/v1/jobs/edits": "POST",
        "/v1/images/generations": "POST",
        "/v1/models/some/one": "GET",
        "/health": "GET",
    }.items():
        for method in ("OPTIONS", "PATCH"):
            answer = parts.client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed), path
