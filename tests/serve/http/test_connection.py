"""Connections whose client stops half-way are closed, those of who waits or is slow are not."""

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
LARGE = 16_000_000  # bytes of an answer: more than the system itself keeps for a client that does not read
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000\r\n\r\n"


async def slow_app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body; answer /slow after a while, /large with much, /pieces with as much in pieces."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass
    if message["type"] == "http.request":
        await asyncio.sleep(SLOW if scope["path"] == "/slow" else 0)
        if pieces := {"/large": 1, "/pieces": 100}.get(scope["path"], 0):
            length = [(b"content-length", b"%d" % LARGE)]
            await send({"type": "http.response.start", "status": 200, "headers": length})
            for left in reversed(range(pieces)):
                part = bytes(LARGE // pieces)
                await send({"type": "http.response.body", "body": part, "more_body": left > 0})
            return
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


def taken(client: socket.socket, pause: float) -> int:
    """Read to the end, with a pause before each piece; return the bytes of the body."""
    client.settimeout(5)
    count = 0
    try:
        while part := client.recv(100_000):
            count += len(part.partition(b"\r\n\r\n")[2] if not count else part)
            time.sleep(pause)
    except ConnectionResetError:
        pass
    return count


@pytest.mark.parametrize("path", [b"/large", b"/pieces"])
def test_an_answer_that_is_read_slowly_comes_whole(kind: Any, port: int, path: bytes) -> None:
    kind.patience = 0.3
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)  # what was read is soon told
        client.connect(("127.0.0.1", port))
        client.sendall(GET.replace(b"/ ", path + b" ", 1).replace(b"Host", b"Connection: close\r\nHost"))
        began = time.monotonic()
        assert taken(client, 0.01) == LARGE
        assert time.monotonic() - began > 3 * kind.patience


@pytest.mark.parametrize("path", [b"/large", b"/pieces"])
def test_a_client_that_reads_no_answer_is_let_go(port: int, path: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(GET.replace(b"/ ", path + b" ", 1))
        time.sleep(10 * PATIENCE)
        assert 0 < taken(client, 0) < LARGE


@pytest.mark.parametrize(
    "sent", [b"HELO\r\n\r\n", b"\x16\x03\x01\0\xa5", GET.replace(b"x\r", b"x\r\nContent-Length: y\r")]
)
def test_what_is_no_request_is_answered_in_openais_form(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(5)
        client.sendall(sent)
        head, _, body = client.recv(1000).partition(b"\r\n\r\n")
        assert client.recv(1000) == b""
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"X-Should-Retry: false" in head
    error = json.loads(body)["error"]
    assert (error["code"], error["type"], error["param"]) == ("invalid_http", "invalid_request_error", None)


def test_nonsense_after_a_request_is_no_answer_to_it(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(GET.replace(b"/ ", b"/slow ", 1) + b"\0\0\r\n\r\n")
        client.settimeout(5 * SLOW)
        assert not client.recv(1000).startswith(b"HTTP/1.1 400")


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
