"""The outermost layer: an id, a log line, metrics and safe headers for every request; and two limits.

Plain ASGI, so that streams pass through as they are. Bodies, and so prompts, are not logged. Of an address
only the path is logged, with control characters escaped, so that no request can add lines to the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import string
import sys
from time import perf_counter
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sanakit.errors import BusyError, ClosedError
from sanakit.serve.http.failures import Failure, FailureError, failure_of
from sanakit.serve.http.metrics import Metrics

log = logging.getLogger("sanakit.serve.requests")

_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_API_HEADERS = {  # not for a page that is mounted beside the API
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
PLAIN_JSON = 1_000_000  # bytes of a body without images: two prompts, all escaped
MOST_JSON = 8_000_000  # bytes of any, which are parsed in one turn of the loop
MOST_LARGE = 32  # bodies of JSON over PLAIN_JSON at a time: 8 MB each, and as much again once they are parsed
MOST_BESIDE = 260_000  # bytes besides letters and digits of more than PLAIN_JSON: two prompts, not escaped
_MOST_BYTES = {"multipart/form-data": sys.maxsize, "application/json": MOST_JSON}
_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()
_MOST_OTHER = 65_536
_API = ("/v1/", "/health", "/ready", "/metrics", "/openapi.json")


class OuterLayer:
    """Wraps the whole app. json_log: one JSON object a line. detailed: see `failures.failure_of`."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, *, json_log: bool = False, detailed: bool = False
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._json_log = json_log
        self._detailed = detailed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, and note how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("state", {})["request_id"] = f"req_{secrets.token_hex(12)}"
        status, left, started = 0, False, perf_counter()

        async def receiving() -> Message:
            nonlocal left
            message = await receive()
            left = left or (message["type"] == "http.disconnect" and not status)
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                safe = _HEADERS | (_API_HEADERS if scope["path"].startswith(_API) else {})
                for name, value in safe.items():
                    headers.setdefault(name, value)
            await send(message)

        with self._metrics.open_requests.track_inprogress():
            try:
                await self._app(scope, receiving, sending)
            except ClientDisconnect:  # in the middle of its body: nobody's mistake, and nobody to answer
                left = True
            except asyncio.CancelledError:  # the time to drain is over, and its body has not come
                if status:
                    raise
                closing = failure_of(ClosedError("The server is stopping."), request_id)
                await closing.response()(scope, receive, sending)
            except Exception as error:
                failure = failure_of(error, request_id, detailed=self._detailed)
                if status:  # half an answer is out: close the connection, so that it is not taken for whole
                    raise ConnectionAbortedError(f"request {request_id} broke off") from None
                await failure.response()(scope, receive, sending)
            finally:
                if left:  # whatever was answered, nobody heard it
                    self._metrics.disconnected.inc()
                self._note(scope, 499 if left or not status else status, perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        self._metrics.answered(scope["method"], route, status, seconds)
        facts = {
            "id": scope["state"]["request_id"],
            "client": (scope.get("client") or ("-",))[0],
            "caller": scope["state"].get("caller", "-"),
            "method": scope["method"][:16],
            "path": quote(scope["path"][:200]),
            "status": status,
            "ms": round(1000 * seconds),
        }
        log.info(json.dumps(facts) if self._json_log else " ".join(str(value) for value in facts.values()))


class HeadRequests:
    """Answers HEAD as GET without the body, on every route that has a GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, a HEAD as a GET."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        asked = {**scope, "method": "GET"}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(asked, receive, sending)
        finally:
            scope["route"] = asked.get("route")  # for the figures


def beside_base64(text: bytes) -> int:
    """Return how many bytes of a text cannot be a part of base64: they are what makes JSON slow to parse.

    >>> beside_base64(b'{"image":"AAAA"}')
    7
    """
    return len(text.translate(None, _BASE64))


class BodyLimit:
    """Refuses bodies over a number of bytes, while they are read: Content-Length may lie or be absent.

    limit: of a form with files. Others are read whole by the event loop, which nobody may hold up: a large
    one of JSON may be large by images alone.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._large = 0  # bodies of JSON over PLAIN_JSON that are held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, but no more of its body than the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        limit = min(self._limit, _MOST_BYTES.get(kind, _MOST_OTHER))
        failure = _too_large(f"The body is larger than the {limit:,} bytes that this server allows.")
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:30]) > limit:
            await failure.response()(scope, receive, send)
            return
        came = beside = held = 0
        is_json = kind == "application/json"

        async def receiving() -> Message:
            nonlocal came, beside, held
            part = await receive()
            came += len(part.get("body", b""))
            beside += beside_base64(part.get("body", b"")) if is_json else 0
            if came > limit:
                raise FailureError(failure)
            if came > PLAIN_JSON and beside > MOST_BESIDE:
                raise FailureError(
                    _too_large(f"A body of more than {PLAIN_JSON:,} bytes may be large by its images alone.")
                )
            if is_json and came > PLAIN_JSON and not held:
                if self._large >= MOST_LARGE:
                    busy = BusyError("Too many large bodies came: try again later.")
                    raise FailureError(failure_of(busy, scope["state"]["request_id"]))
                held = 1
                self._large += held
            return part

        try:
            await self._app(scope, receiving, send)
        finally:
            self._large -= held


def _too_large(message: str) -> Failure:
    return Failure(status=413, message=message, code="body_too_large", headers={"Connection": "close"})
