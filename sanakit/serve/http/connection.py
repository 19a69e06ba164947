"""One connection to the server; it is closed if the client never completes a request.

uvicorn waits for such a client for ever, and each one holds one of the process' few open files: a thousand
idle connections would shut out everybody else. Waiting for an answer is not idle and has no limit here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

PATIENCE = 20.0  # seconds between two looks at a connection
BODY_BYTES = 10_000  # that come in that time at least while a body is under way: 4 kbit/s
HEAD_BYTES = 65_536  # of a request's head: who sends more is let go
MOST = 512  # connections at a time; a process may have a thousand open files, and uploads are files, too
_FULL = (
    b'{"error":{"message":"Too many connections are open: try again later.",'
    b'"type":"server_error","param":null,"code":"busy"}}'
)
_REFUSAL = b"\r\n".join(
    (
        b"HTTP/1.1 503 Service Unavailable",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(_FULL),
        b"Retry-After: 2",
        b"X-Should-Retry: true",
        b"Connection: close",
        b"",
        _FULL,
    )
)


class Connection(AutoHTTPProtocol):  # of the two that uvicorn may have, which know the same attributes
    """uvicorn's connection, looked at every PATIENCE seconds.

    It is closed if no whole head of a request came from one look to the next, or too little of a body. It is
    refused where `most` others are open.
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
            transport.write(_REFUSAL)
            transport.close()
            return
        super().connection_made(transport)
        self._came, self._head, self._seen = 0, 0, None
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

    def _look_again(self) -> None:
        request: Any = self.cycle  # the last one whose head has come; None: none yet
        if request is self._seen and self._is_late(request):
            self.transport.abort()  # which tells the application, too
            return
        self._came, self._seen = 0, request
        self._look = asyncio.get_running_loop().call_later(self.patience, self._look_again)

    def _is_late(self, request: Any) -> bool:
        """Return whether the server waited for the client since the last look."""
        if request is None or request.response_complete:
            return True
        return request.more_body and self._came < BODY_BYTES and not self.flow.read_paused
