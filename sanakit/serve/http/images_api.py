"""POST /v1/images/generations and /v1/images/edits, at once or as a stream of server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image
from starlette.types import Receive, Scope, Send

from sanakit.errors import BusyError, ClosedError, RefusedError, SettingsError
from sanakit.images.formats import check_sides
from sanakit.images.image import QUALITY, Metadata, encode
from sanakit.pipelines.request import Request as Drawn
from sanakit.pipelines.result import Result
from sanakit.pipelines.upscale.lanczos import enlarged_size
from sanakit.serve.engine.engine import Stepped
from sanakit.serve.http.access import caller_of
from sanakit.serve.http.answers import EDIT_BODY, EXAMPLES, answers, stream_answer
from sanakit.serve.http.drawing import Drawing
from sanakit.serve.http.failures import failure_of
from sanakit.serve.http.openai_schema import (
    CompletedEvent,
    DrawingSettings,
    GenerationRequest,
    ImageReply,
    ImagesReply,
    PartialImageEvent,
    Reply,
    Usage,
)
from sanakit.serve.http.service import Service, address, note_prompt, request_id
from sanakit.serve.http.stored_images_api import new_name
from sanakit.serve.http.uploads import check_generation, read_edit

_MARK = f"file {secrets.token_hex(16)}"  # where a file goes in a reply's JSON; nobody outside knows it
_SLICE = 3 << 19  # bytes of a file that are spelled at a time; a multiple of three
KEEP_ALIVE = 15  # seconds without an event after which a stream sends a comment: proxies give up on silence


def images_api(service: Service) -> APIRouter:
    """Return the routes that draw at once."""
    routes = APIRouter(prefix="/v1/images", tags=["images"])

    @routes.post(
        "/generations", response_model=ImagesReply, responses=stream_answer() | answers(404, 500, 503, 504)
    )
    async def generate(
        client: Request, body: Annotated[GenerationRequest, Body(openapi_examples=EXAMPLES)]
    ) -> Any:
        """Draw images from a sentence."""
        drawn, _ = await check_generation(service, body)
        return await answer(service, client, body, drawn, "image_generation")

    @routes.post(
        "/edits",
        response_model=ImagesReply,
        responses=stream_answer() | answers(404, 500, 503, 504),
        openapi_extra=EDIT_BODY,
    )
    async def edit(client: Request) -> Any:
        """Redraw an image, or the transparent part of it or of a mask, as a sentence says."""
        body, drawn, _, _ = await read_edit(service, client)
        return await answer(service, client, body, drawn, "image_edit")

    return routes


async def answer(service: Service, client: Request, body: DrawingSettings, drawn: Drawn, kind: str) -> Any:
    """Draw, and answer as the body wishes. kind: "image_generation" or "image_edit", as in event names."""
    check_output(body, drawn)
    note_prompt(service, client, body.prompt, body.negative_prompt)
    if service.draining.is_set():
        raise ClosedError("The server is stopping: try again when it is back.")
    charged = caller_of(client), drawn.num_images
    partial_images = (body.partial_images or 0) if service.settings.previews else 0
    await asyncio.to_thread(service.access.charge, *charged)
    try:
        drawing = Drawing(
            service.engine,
            drawn,
            partial_images=partial_images,
            upscale=body.upscale,
            deadline=body.deadline,
            name=request_id(client),
        )
    except (BusyError, ClosedError):
        await asyncio.to_thread(service.access.refund, *charged)
        raise
    if body.stream:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = _events(service, client, body, drawn, drawing, kind)
        return _Stream(drawing, kept_alive(events), headers=headers, media_type="text/event-stream")
    try:
        with drawing:
            result = await drawing.result(client)
        files = await encode_all(result, body)
        replies = await _replies(service, client, body, result, files)
    except Exception as error:
        _count(service, error)
        await asyncio.to_thread(service.access.refund_failed, *charged, error)
        raise
    reply = ImagesReply(
        created=int(time.time()),
        output_format=body.output_format or "png",
        size=_size(body, drawn),
        data=replies,
        usage=_usage(drawn, drawn.num_images, kind),
        warnings=result.warnings,
    )
    if body.response_format == "url":
        return JSONResponse(reply.model_dump())
    return StreamingResponse(_spelled(reply, files), media_type="application/json")


async def _replies(
    service: Service, client: Request, body: DrawingSettings, result: Result, files: list[bytes]
) -> list[ImageReply]:
    """Return the images as the body wishes: marked in the answer itself, or stored, by their address."""
    replies = []
    for file, metadata in zip(files, result.metadata, strict=True):
        if body.response_format == "url":
            name = new_name(body.output_format or "png")
            await asyncio.to_thread(service.store.put, name, file)
            url = address(client, "picture", name=name)
            replies.append(ImageReply(url=url, metadata=metadata))
        else:
            replies.append(ImageReply(b64_json=_MARK, metadata=metadata))
    return replies


def check_output(body: DrawingSettings, drawn: Drawn) -> None:
    """Raise SettingsError where fields about the answer do not go together, SizeError for a large image.

    Large counts what the answer holds: the enlarged image.
    """
    check_sides((body.output_format or "png").upper(), *_sides(body, drawn))
    if body.output_format in (None, "png") and body.output_compression not in (None, 100):
        raise SettingsError('output_compression applies to "jpeg" and "webp" only: PNG is lossless.')
    if body.stream and body.response_format == "url":
        raise SettingsError('A stream contains its images: leave response_format at "b64_json".')
    if body.partial_images and not body.stream:
        raise SettingsError("partial_images need a stream: add stream = true.")


async def encode_all(result: Result, body: DrawingSettings) -> list[bytes]:
    """Return the images as files of the format that the body wishes."""
    assert isinstance(result.images, list)
    pairs = zip(result.images, result.metadata, strict=True)
    return [await asyncio.to_thread(_file, image, body, metadata) for image, metadata in pairs]


class _Stream(StreamingResponse):
    """A stream that cancels its drawing however it ends, even before its first event."""

    def __init__(self, drawing: Drawing, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drawing = drawing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._drawing:
            await super().__call__(scope, receive, send)


async def _events(
    service: Service, client: Request, body: DrawingSettings, drawn: Drawn, drawing: Drawing, kind: str
) -> AsyncIterator[bytes]:
    shared: dict[str, Any] = {"output_format": body.output_format or "png", "size": _size(body, drawn)}
    finished = False
    try:
        async for event in drawing.events():
            now = int(time.time())
            if isinstance(event, Stepped):
                assert event.preview is not None
                file = await asyncio.to_thread(_file, event.preview, body, None)
                partial = PartialImageEvent(
                    type=f"{kind}.partial_image",  # pyright: ignore[reportArgumentType]
                    b64_json=_MARK,
                    created_at=now,
                    picture=event.number,
                    partial_image_index=drawing.shown(event) or 0,
                    **shared,
                )
                yield await asyncio.to_thread(_sent, partial, file)
                continue
            for number, file in enumerate(await encode_all(event, body)):
                completed = CompletedEvent(
                    type=f"{kind}.completed",  # pyright: ignore[reportArgumentType]
                    b64_json=_MARK,
                    created_at=now,
                    picture=number,
                    usage=_usage(drawn, 1, kind),
                    metadata=event.metadata[number],
                    warnings=event.warnings,
                    **shared,
                )
                yield await asyncio.to_thread(_sent, completed, file)
        finished = True
    except Exception as error:  # the status has been sent: the error goes the way of the events
        finished = True
        _count(service, error)
        await asyncio.to_thread(service.access.refund_failed, caller_of(client), drawn.num_images, error)
        detailed = service.settings.log_prompts
        failure = failure_of(error, request_id(client), detailed=detailed)
        yield f"event: error\ndata: {json.dumps(failure.body())}\n\n".encode()
    finally:
        if not finished:
            service.metrics.disconnected.inc()


async def kept_alive(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass events on, with a comment wherever none came for a while."""
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait((following,), timeout=KEEP_ALIVE)
            if not done:
                yield b": still drawing\n\n"
                continue
            event = following.result()
            if event is None:
                return
            yield event
            following = asyncio.ensure_future(anext(events, None))
    finally:
        following.cancel()


def _file(image: Image.Image, body: DrawingSettings, metadata: Metadata | None) -> bytes:
    quality = QUALITY if body.output_compression is None else max(1, body.output_compression)
    return encode(image, (body.output_format or "png").upper(), metadata, quality)


def _count(service: Service, error: Exception) -> None:
    if isinstance(error, RefusedError):
        service.metrics.filtered.inc()


def _sent(event: PartialImageEvent | CompletedEvent, file: bytes) -> bytes:
    return b"".join((f"event: {event.type}\ndata: ".encode(), *_spelled(event, [file]), b"\n\n"))


def _spelled(reply: Reply, files: list[bytes]) -> Iterator[bytes]:
    """Yield the JSON of a reply, with its files in base64 in the place of the marks.

    Megabyte by megabyte: one call for all of it would hold up all other threads meanwhile.
    """
    *texts, last = reply.model_dump_json().split(f'"{_MARK}"')
    for text, file in zip(texts, files, strict=True):
        yield text.encode() + b'"'
        for start in range(0, len(file), _SLICE):
            yield base64.b64encode(file[start : start + _SLICE])
        yield b'"'
    yield last.encode()


def _sides(body: DrawingSettings, drawn: Drawn) -> tuple[int, int]:
    """Return height and width of the answered images. Raises SettingsError for too many pixels."""
    height, width = drawn.size
    if body.upscale is not None:
        width, height = enlarged_size((width, height), body.upscale)
    return height, width


def _size(body: DrawingSettings, drawn: Drawn) -> str:
    height, width = _sides(body, drawn)
    return f"{width}x{height}"


def _usage(drawn: Drawn, num_images: int, kind: str) -> Usage:
    return Usage.of(drawn.cells.tokens, num_images, edit=kind == "image_edit")
