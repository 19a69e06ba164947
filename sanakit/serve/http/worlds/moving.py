"""A move through a world as a stream of server-sent events, and a walk's replay.

A move's chunks are drawn one after another: the next one is asked for when the frames of the last are on
their way, so a slow reader holds nobody up and fills no memory. If the client leaves, the chunk that is being
drawn is the last.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from sanakit.errors import RefusedError, StorageError
from sanakit.serve.engine.ticket import Failed, Finished
from sanakit.serve.engine.walk import Walk, WalkChunk, WalkMoment
from sanakit.serve.engine.world_engine import ChunkTicket, WorldEngine
from sanakit.serve.http.failures import Failure, FailureError, failure_of
from sanakit.serve.http.images_api import kept_alive
from sanakit.serve.http.service import Service, request_id
from sanakit.serve.http.worlds.schema import MomentReply, Reply, WorldFrameEvent, WorldMomentEvent

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Move:
    """A move under way; made by `Move.begin`, and closed however it ends.

    refund: is called with the number of chunks that were not drawn.
    """

    def __init__(
        self,
        worlds: WorldEngine,
        walk: Walk,
        chunks: Sequence[WalkChunk],
        before: int,
        *,
        last_only: bool,
        refund: Callable[[int], None],
    ) -> None:
        self._worlds, self._walk, self._chunks, self._before = worlds, walk, chunks, before
        self._last_only, self._refund = last_only, refund
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[bytes | Finished[WalkMoment] | Failed] = asyncio.Queue()
        self._ticket: ChunkTicket | None = None
        self._done, self._closed = 0, False

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the events of all chunks. Raises what a chunk failed with."""
        walk, before = self._walk, self._before
        for chunk in self._chunks:
            start = walk.moments[before]
            poses = walk.chunk_poses(chunk, start.walker).tolist()
            self._ticket = self._worlds.draw(walk, chunk, before, self._tell, self._tell)
            number, waiting = 0, b""
            while isinstance(event := await self._told.get(), bytes):
                number += 1
                if not self._last_only:
                    yield _frame(start.frames + number - 1, poses[number - 1], event)
                waiting = event
            if isinstance(event, Failed):
                raise event.error
            self._done += 1
            moment = event.result
            if self._last_only:
                yield _frame(moment.frames - 1, poses[-1], waiting)
            yield sent(WorldMomentEvent(moment=MomentReply.of(moment)))
            before = moment.number

    def close(self) -> None:
        """Ask for no more chunks, and let the next move begin."""
        if self._closed:
            return
        self._closed = True
        if self._ticket is not None and not self._ticket.done:
            self._ticket.cancel()
        self._walk.turn.release()
        if left := len(self._chunks) - self._done:
            self._loop.run_in_executor(None, self._take_back, left)

    def _take_back(self, left: int) -> None:
        with suppress(StorageError):  # there is nobody to tell
            self._refund(left)

    def _tell(self, event: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._told.put_nowait, event)


class MoveStream(StreamingResponse):
    """A stream that closes its move however it ends, even before its first event."""

    def __init__(self, move: Move, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._move = move

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._move.close()


async def stream(service: Service, client: Request, move: Move) -> MoveStream:
    """Return the answer to a move. Raises what its first chunk fails with, so that the status tells it."""
    events = move.events()
    try:
        first = await anext(events)
    except BaseException as error:
        move.close()
        count_filtered(service, error)
        raise
    content = kept_alive(explained(service, client, events, first))
    return MoveStream(move, content, headers=HEADERS, media_type="text/event-stream")


async def explained(
    service: Service, client: Request, events: AsyncIterator[bytes], first: bytes = b""
) -> AsyncIterator[bytes]:
    """Yield events; an error goes the way of the events. first: one that was awaited before."""
    try:
        if first:
            yield first
        async for event in events:
            yield event
    except Exception as error:
        count_filtered(service, error)
        failure = failure_of(error, request_id(client), detailed=service.settings.log_prompts)
        yield f"event: error\ndata: {json.dumps(failure.body())}\n\n".encode()


async def replay(walk: Walk, moment: int) -> AsyncIterator[bytes]:
    """Yield the recorded frames from the image to a moment, as fast as they are read."""
    numbers, poses = walk.recorded(moment), walk.path(moment).poses.tolist()
    for frame, (number, pose) in enumerate(zip(numbers, poses, strict=True)):
        yield _frame(frame, pose, await asyncio.to_thread(walk.recording.read, number))
    yield sent(WorldMomentEvent(moment=MomentReply.of(walk.check(moment))))


def take_turn(walk: Walk) -> None:
    """Begin a move of a walk. Raises FailureError (409) while another one is under way."""
    if not walk.turn.acquire(blocking=False):
        message = "Another move of this walk is under way: wait for its end, or close its request."
        raise FailureError(Failure(status=409, message=message, code="walk_busy"))


def count_filtered(service: Service, error: BaseException) -> None:
    """Count what a safety filter refused."""
    if isinstance(error, RefusedError):
        service.metrics.filtered.inc()


def sent(event: WorldFrameEvent | WorldMomentEvent) -> bytes:
    """Return a server-sent event."""
    assert isinstance(event, Reply)
    return f"event: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()


def _frame(number: int, pose: list[list[float]], data: bytes) -> bytes:
    return sent(WorldFrameEvent(frame=number, pose=pose, b64_json=base64.b64encode(data).decode()))
