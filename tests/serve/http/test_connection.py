"""Connections whose client sends only the beginning of a request are closed, those that wait are not."""

from __future__ import annotations

import asyncio
import json
import runpy
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol

from sanakit.serve.http import connection

PATIENCE = 0.1  # seconds
SLOW = 1.0  # seconds that the application takes for its answer
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n"


async def slow_app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body; answer /slow after a while."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass
    if message["type"] == "http.request":
        await asyncio.sleep(SLOW if scope["path"] == "/slow" else 0)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


@pytest.fixture(params=[auto.AutoHTTPProtocol, H11Protocol], ids=["auto", "h11"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The connection, above either of uvicorn's own."""
    monkeypatch.setattr(auto, "AutoHTTPProtocol", request.param)
    return runpy.run_path(connection.__file__)["Connection"]


@pytest.fixture
def port(kind: Any) -> Iterator[int]:
    """Of a server with these connections."""
    kind.patience = PATIENCE
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(slow_app, http=kind, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join()


def is_closed(client: socket.socket) -> bool:
    """Wait until the server closes, or answers."""
    client.settimeout(5)
    try:
        return client.recv(1000) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", POST, POST + b"x" * 5000], ids=["nothing", "head", "no body", "body"]
)
def test_a_client_that_stops_half_way_is_let_go(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(sent)
        assert is_closed(client)


def test_a_head_that_trickles_is_no_progress(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        try:
            for letter in "GET / HTTP/1.1\r\nX: ".ljust(100, "a"):
                client.sendall(letter.encode())
                time.sleep(PATIENCE / 4)
        except (BrokenPipeError, ConnectionResetError):
            return
        pytest.fail("it went on for 2.5 s")


def test_who_waits_for_the_answer_may_wait(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(GET.replace(b"/ ", b"/slow ", 1))
        client.settimeout(5 * SLOW)
        assert client.recv(1000).startswith(b"HTTP/1.1 204")


def test_a_body_that_comes_steadily_is_read_to_its_end(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(POST)
        for _ in range(6):  # longer than a look, and enough at each
            client.sendall(b"x" * 5000)
            time.sleep(PATIENCE / 3)
        client.settimeout(5)
        assert client.recv(1000).startswith(b"HTTP/1.1 204")


def test_a_head_without_an_end_is_let_go_and_a_long_body_is_not(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(5)
        try:
            for number in range(100):
                client.sendall(b"GET / HTTP/1.1\r\n" * (not number) + b"X: " + b"a" * 65_000 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            assert is_closed(client)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(5)
        for _ in range(3):  # on one connection, one after the other
            client.sendall(POST.replace(b"30000", b"1000000") + b"x" * 1_000_000)
            assert client.recv(1000).startswith(b"HTTP/1.1 204")


def test_connections_beyond_the_limit_hear_503_until_others_leave(kind: Any, port: int) -> None:
    kind.patience, kind.most = 60, 2
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    for client in clients:  # both are taken
        client.settimeout(5)
        client.sendall(GET)
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
    with socket.create_connection(("127.0.0.1", port)) as third:
        third.settimeout(5)
        try:
            third.sendall(GET)
        except (BrokenPipeError, ConnectionResetError):
            pytest.fail("it was closed before it was told")
        head, _, body = third.recv(1000).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 2" in head
    error = json.loads(body)["error"]
    assert (error["code"], error["type"], error["param"]) == ("busy", "server_error", None)
    clients.pop().close()
    until = time.monotonic() + 5
    while True:
        assert time.monotonic() < until
        with socket.create_connection(("127.0.0.1", port)) as fourth:
            fourth.settimeout(5)
            fourth.sendall(GET)
            if fourth.recv(1000).startswith(b"HTTP/1.1 204"):
                break
    clients.pop().close()
