"""All uses of uvicorn's undocumented parts, so that a new release can break only this file.

`startup`, `shutdown`, `capture_signals` and `handle_exit` are methods that uvicorn calls on itself. The parts
of a connection are in `http/connection.py`. `tests/serve/test_uvicorn_seams.py` runs through all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from sanakit.errors import SettingsError
from sanakit.serve.http.connection import Connection

# Threads that may wait for files and the database: a database that is locked must not hold up those who draw.
_WORKERS = 32
_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,16}")  # of a path
_LAST_WORDS = 5  # seconds for answers to reach their clients when the time to drain is over


class Server(uvicorn.Server):
    """uvicorn with its socket bound from the start, and with our way to stop.

    port: 0 = any free one. drain: seconds for open requests when it stops. Raises SettingsError if another
    program has the port, or the host is not one of this machine.
    """

    def __init__(self, host: str, port: int, drain: float) -> None:
        self.draining = threading.Event()
        self.stopped_by: int | None = None  # the first signal that came
        config = uvicorn.Config(
            _nothing,
            log_config=None,
            access_log=False,
            http=Connection,
            server_header=False,
            proxy_headers=False,  # `_Proxied` reads them
            ws="none",
            timeout_graceful_shutdown=round(drain) + _LAST_WORDS,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._socket = _bind(host, port)

    def run_app(self, app: Any, announce: Callable[[str], None], stop: Callable[[], None]) -> None:
        """Serve until a signal; then call `stop` in a thread while the open requests come to their end."""
        self.config.app = _Proxied(app, self.config.forwarded_allow_ips)
        host, port = self._socket.getsockname()[:2]
        self._announce, self._stop = announce, stop
        self._address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.run(sockets=[self._socket])

    def close(self) -> None:
        """Leave the port to others."""
        self._socket.close()

    async def startup(self, sockets: Any = None) -> None:
        """Listen, then tell the world."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_WORKERS, "sanakit-http"))
        await super().startup(sockets)
        self._announce(self._address)

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop what draws while connections finish."""
        # Connections that do not end in time are cut off; uvicorn would print a traceback for each.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        stopping = asyncio.create_task(asyncio.to_thread(self._stop))
        await super().shutdown(sockets)
        await stopping

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave at SIGTERM and SIGINT with exit code 0: to have stopped cleanly is not a failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to drain; a second Ctrl-C does not wait."""
        self.draining.set()
        self.stopped_by = self.stopped_by or sig
        super().handle_exit(sig, frame)


class _Proxied(ProxyHeadersMiddleware):
    """Believes X-Forwarded-Prefix where uvicorn believes the other headers of a proxy.

    `state["prefix"]` is then the path below which clients reach the server; the proxy takes it off.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Note the prefix, and hand the request on."""
        client = scope.get("client")
        if scope["type"] == "http" and client and client[0] in self.trusted_hosts:
            prefix = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
            if _PREFIX.fullmatch(prefix):
                scope.setdefault("state", {})["prefix"] = prefix
        await super().__call__(scope, receive, send)


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stand in for the application until there is one; no request ever gets here."""


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that has the address but does not listen: clients are refused until we are ready."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name == "posix":  # elsewhere it would share the port with another server
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise SettingsError(
            f"{host}:{port} cannot be listened on ({error.strerror}): another program may have the port. "
            "Stop it, or take another with --port."
        ) from None
    return bound
