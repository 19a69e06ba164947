"""uvicorn still calls what the server puts in its place: binding, starting, stopping, signals."""

from __future__ import annotations

import gc
import signal
import socket
import threading
import warnings
from typing import Any

import httpx
import pytest

from sanakit.errors import SettingsError
from sanakit.serve.uvicorn_seams import Server


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


def test_it_listens_announces_itself_answers_and_stops() -> None:
    server, announced, stopped = Server("127.0.0.1", 0, 1.0), [], threading.Event()
    ready = threading.Event()

    def announce(address: str) -> None:
        announced.append(address)
        ready.set()

    thread = threading.Thread(target=server.run_app, args=(answer, announce, stopped.set))
    thread.start()
    try:
        assert ready.wait(30)
        assert httpx.get(announced[0]).status_code == 204
        assert not stopped.is_set()
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        server.close()
    assert not thread.is_alive()
    assert server.draining.is_set()
    assert stopped.is_set()


def test_a_signal_stops_it_and_is_given_back_to_who_had_it() -> None:
    server, before = Server("127.0.0.1", 0, 1.0), signal.getsignal(signal.SIGTERM)
    with server.capture_signals():
        signal.raise_signal(signal.SIGTERM)
        assert server.should_exit
        assert not server.force_exit
        signal.raise_signal(signal.SIGINT)
        assert server.force_exit
    assert signal.getsignal(signal.SIGTERM) is before
    server.close()


def test_before_it_runs_it_has_the_port_and_refuses_clients() -> None:
    server = Server("127.0.0.1", 0, 1.0)
    port = server._socket.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    server.close()


def test_a_port_that_another_program_listens_on_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port} cannot be listened on .*--port"):
            Server("127.0.0.1", port, 1.0)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_no_interface_is_a_sentence_and_leaves_nothing_open(host: str) -> None:
    with warnings.catch_warnings(record=True, category=ResourceWarning) as left_open:
        warnings.simplefilter("always")
        with pytest.raises(SettingsError, match="cannot be listened on"):
            Server(host, 0, 1.0)
        gc.collect()
    assert [str(one.message) for one in left_open if "socket" in str(one.message)] == []
