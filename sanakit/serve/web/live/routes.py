"""POST live/draw: the image of a key, as a stream of server-sent events.

    event: frame   an image after a step: "number" of the key, "step", "total", "image" (a data URL of JPEG),
                   "milliseconds" since the key arrived
    event: done    the same of the finished image, with "warnings"
    event: newer   a newer key of this tab came: nothing follows
    event: error   what went wrong, as the API's errors: {"error": {"message": ...}}

A wrong body gets a status, and the same form. The route belongs to the page, and
has its login; `GET live/live.js` is the module that calls it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from sanakit.errors import SanaError
from sanakit.images.image import encode
from sanakit.serve.http.failures import Failure, FailureError, failure_of
from sanakit.serve.web.gradio_seams import Lock
from sanakit.serve.web.live.drawings import Charge, Frame, LiveDrawings
from sanakit.serve.web.live.wish import MOST_SKETCH, LiveWish, checked, read_wish

MODULE = Path(__file__).with_name("live.js")
PLACE = "live"  # of the routes, below the page
MOST_BODY = MOST_SKETCH + 200_000  # bytes
QUALITY = 90  # of JPEG: 256 px take half a millisecond, ten times less than WebP
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def live_routes(
    drawings: LiveDrawings, charge: Callable[[str, int], Callable[[], None]] | None = None
) -> APIRouter:
    """Return the routes. charge: as for `Page`."""
    routes = APIRouter(prefix=f"/{PLACE}", include_in_schema=False)

    @routes.get(f"/{MODULE.name}")
    def module() -> FileResponse:
        return FileResponse(MODULE, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    @routes.post("/draw")
    async def draw(client: Request) -> Response:
        try:
            user, wish = await _visitor(client), read_wish(await _body(client))
        except FailureError as error:
            return error.failure.response()
        counted = None if charge is None or not user else partial(charge, user, 1)
        events = _events(drawings, user, wish, counted)
        first = await anext(events)
        if isinstance(first, Failure):  # before anything was sent, it still has a status
            return first.response()
        return StreamingResponse(_sent(first, events), headers=_HEADERS, media_type="text/event-stream")

    return routes


def tab_name(user: str | None, tab: str) -> str:
    """Return the name of a tab among all: one of another login cannot be reached."""
    return f"{user or ''}/{tab}"


async def _events(
    drawings: LiveDrawings, user: str | None, wish: LiveWish, charge: Charge | None
) -> AsyncIterator[bytes | Failure]:
    """Yield the events of a wish, and its failure in the place of the last one."""
    check, last = partial(checked, drawings.engine, wish), False
    drawn = drawings.draw(tab_name(user, wish.tab), wish.number, check, charge)
    try:
        async with aclosing(drawn) as frames:
            async for frame in frames:
                last = frame.final
                yield await asyncio.to_thread(_spelled, frame, wish.number)
        if not last:
            yield _event("newer", {"number": wish.number})
    except (SanaError, FailureError) as error:
        yield failure_of(error, "of the page")
    except Exception as error:
        yield failure_of(error, "of live drawing")


async def _sent(first: bytes | Failure, events: AsyncIterator[bytes | Failure]) -> AsyncIterator[bytes]:
    yield first if isinstance(first, bytes) else b""
    async for event in events:
        yield event if isinstance(event, bytes) else _event("error", event.body())


def _spelled(frame: Frame, number: int) -> bytes:
    data = base64.b64encode(encode(frame.image, "JPEG", None, QUALITY)).decode()
    told = {"number": number, "step": frame.step, "total": frame.total}
    told |= {"milliseconds": round(1000 * frame.seconds), "warnings": frame.warnings}
    told |= {"image": f"data:image/jpeg;base64,{data}"}
    return _event("done" if frame.final else "frame", told)


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def _visitor(client: Request) -> str | None:
    """Return who is logged in on the page; None where nobody needs to. Raises FailureError."""
    lock: Lock = client.app.state.page_lock  # from when the page was mounted
    user = await asyncio.to_thread(lock.user, client)
    if user is None and not lock.is_open:
        raise FailureError(Failure(status=401, message="Log in on the page first.", code="invalid_api_key"))
    return user


async def _body(client: Request) -> bytes:
    """Return the body, up to `MOST_BODY`. Raises FailureError."""
    if client.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        said = "Send a JSON object, with the header Content-Type: application/json."
        raise FailureError(Failure(status=400, message=said, code="invalid_json"))
    body = b""
    async for part in client.stream():
        body += part
        if len(body) > MOST_BODY:
            said = f"The body has more than {MOST_BODY:,} bytes: send a smaller sketch."
            raise FailureError(Failure(status=413, message=said, code="body_too_large"))
    return body
