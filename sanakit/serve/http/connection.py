"""One connection to the server; it is closed if the client completes no request, or reads no answer.

uvicorn waits for such a client for ever, and each one holds one of the process' few open files: a thousand
idle connections would shut out everybody else. Waiting for an answer is not idle and has no limit here.
Reading one slowly is not idle either.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

PATIENCE = 20.0  # seconds between two looks at a connection
BODY_BYTES = 10_000  # that come in that time at least while a body is under way: 4 kbit/s
READING = 3  # looks at which an answer waits for its reader; the system reports a slow one's progress late
HEAD_BYTES = 65_536  # of a request's head: who sends more is let go
MOST = 512  # connections at a time; a process may have a thousand open files, and uploads are files, too


def _answer(status: bytes, kind: str, code: str, message: str, *headers: bytes) -> bytes:
    """Return a whole answer in OpenAI's form, for a request that reaches no application."""
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    lines = (b"HTTP/1.1 " + status, b"Content-Type: application/json", b"Content-Length: %d" % len(body))
    return b"\r\n".join((*lines, *headers, b"Connection: close", b"", body))


_FULL = _answer(
    b"503 Service Unavailable",
    "server_error",
    "busy",
    "Too many connections are open: try again later.",
    b"Retry-After: 2",
    b"X-Should-Retry: true",
)
_NO_HTTP = _answer(
    b"400 Bad Request",
    "invalid_request_error",
    "invalid_http",
    "This is not a request of HTTP/1.1: send one, and https:// only to a proxy that speaks it.",
    b"X-Should-Retry: false",
)


class Connection(AutoHTTPProtocol):  # of the two that uvicorn may have, which know the same attributes
    """uvicorn's connection, looked at every PATIENCE seconds.

    It is closed if no whole head of a request came from one look to the next, or too little of a body, or if
    nothing of an answer was taken for READING looks. It is refused where `most` others are open.
    """

    patience, most = PATIENCE, MOST
    connections: Any  # uvicorn's, as the next three
    cycle: Any
    flow: Any
    transport: Any

    def connection_made(self, transport: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Begin to look, or refuse the connection."""
        self._refused = len(self.connections) >= self.most
        if self._refused:
            transport.write(_FULL)
            transport.close()
            return
        super().connection_made(transport)
        self._came, self._head, self._seen = 0, 0, None
        self._unread, self._untaken = 0, 0
        self._look = asyncio.get_running_loop().call_later(self.patience, self._look_again)

    def data_received(self, data: bytes) -> None:
        """Count what comes, and let go whose head has no end."""
        if self._refused:
            return
        self._came += len(data)
        before: Any = self.cycle
        in_head = before is None or not before.more_body
        super().data_received(data)
        self._head = self._head + len(data) if in_head and self.cycle is before else 0
        if self._head > HEAD_BYTES:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._refused:
            return
        self._look.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Note that the client has taken what waited for it."""
        self._unread = 0
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; say nothing into an answer that is under way."""
        request: Any = self.cycle
        if request is None or request.response_complete:
            self.transport.write(_NO_HTTP)
        self.transport.close()

    def _look_again(self) -> None:
        request: Any = self.cycle  # the last one whose head has come; None: none yet
        unread = self._waits_for_reader(request)
        self._untaken = self._untaken + 1 if unread and unread == self._unread else 0
        if self._untaken == READING or (request is self._seen and not unread and self._is_late(request)):
            self.transport.abort()  # which tells the application, too
            return
        self._came, self._unread, self._seen = 0, unread, request
        self._look = asyncio.get_running_loop().call_later(self.patience, self._look_again)

    def _waits_for_reader(self, request: Any) -> int:
        """Return the bytes that wait until the client reads, where none can be added before it does."""
        if self.flow.write_paused or (request is not None and request.response_complete):
            return self.transport.get_write_buffer_size()
        return 0

    def _is_late(self, request: Any) -> bool:
        """Return whether the server waited for the client to send since the last look."""
        if request is None or request.response_complete:
            return True
        return request.more_body and self._came < BODY_BYTES and not self.flow.read_paused
