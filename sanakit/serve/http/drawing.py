"""One request in the engine, as the event loop sees it.

The engine calls back in its own thread; here its events become something to await. If the client disconnects
or our code fails, the ticket is cancelled: the engine lets go within a step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import Request as HTTPRequest

from sanakit.errors import StoppedError
from sanakit.pipelines.request import Request
from sanakit.pipelines.result import Result
from sanakit.serve.engine.engine import Engine, Event, Failed, Finished, Stepped
from sanakit.serve.engine.enlarging import Enlargements


class Drawing:
    """A submitted request.

    partial_images: how often to show each image before it is done, 0 to 3. name: its id in logs. upscale:
    how many times each side is enlarged after drawing; None: not. deadline: for both together. whole: as for
    `Engine.submit`.

    Use as a context manager: leaving it cancels what is not finished. Raises BusyError, ClosedError.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        *,
        partial_images: int = 0,
        upscale: float | None = None,
        deadline: float | None = None,
        name: str | None = None,
        whole: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._partial_images = partial_images
        self._engine, self._upscale, self._name = engine, upscale, name
        self._ends = None if deadline is None else time.monotonic() + deadline

        def on_event(event: Event) -> None:
            if isinstance(event, Stepped) and self.shown(event) is None:
                return
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        previews = partial_images > 0
        self._on_event = on_event
        self.ticket = engine.submit(
            request, on_event, previews=previews, deadline=deadline, name=name, whole=whole
        )

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: Any) -> None:
        self.ticket.cancel()

    def shown(self, event: Stepped) -> int | None:
        """Return the index of the partial image that this step yields, or None if it yields none."""
        wanted = [
            round(event.total * (number + 1) / (self._partial_images + 1))
            for number in range(self._partial_images)
        ]
        wanted = sorted({step for step in wanted if 0 < step < event.total})
        return wanted.index(event.index) if event.index in wanted and event.preview is not None else None

    async def events(self) -> AsyncIterator[Stepped | Result]:
        """Yield the partial images, then the result. Raises whatever the drawing failed with."""
        while True:
            event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Finished):
                yield event.result if self._upscale is None else await self._enlarged(event.result)
                return
            if isinstance(event, Stepped):
                yield event

    async def _enlarged(self, result: Result) -> Result:
        """Return the result with its images enlarged, one after the other. Raises as `events` does."""
        loop, engine = asyncio.get_running_loop(), self._engine
        enlarging = Enlargements(engine, result, self._upscale or 1.0)
        while (request := await loop.run_in_executor(engine.decoding.threads, enlarging.request)) is not None:
            left = None if self._ends is None else max(0.0, self._ends - time.monotonic())
            self.ticket = engine.submit(request, self._on_event, deadline=left, name=self._name)
            while not isinstance(event := await self._events.get(), Finished):
                if isinstance(event, Failed):
                    raise event.error
            await loop.run_in_executor(engine.decoding.threads, enlarging.take, event.result)
        return enlarging.result()

    async def result(self, client: HTTPRequest) -> Result:
        """Wait for the images as long as the client does. Raises StoppedError when it has left."""
        drawn = asyncio.ensure_future(self._last())
        gone = asyncio.ensure_future(_left(client))
        try:
            await asyncio.wait((drawn, gone), return_when=asyncio.FIRST_COMPLETED)
            if not drawn.done():
                raise StoppedError("The client has left.")
            return drawn.result()
        finally:
            drawn.cancel()
            gone.cancel()

    async def _last(self) -> Result:
        async for event in self.events():
            if isinstance(event, Result):
                return event
        raise AssertionError("events end with a result")


async def _left(client: HTTPRequest) -> None:
    """Return when the client has closed its connection. Its request must have been read."""
    while (await client.receive())["type"] != "http.disconnect":
        pass
