"""uvicorn still calls what the server puts in its place: binding, starting, stopping, signals."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
import warnings
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from sanakit.errors import SettingsError
from sanakit.serve.uvicorn_seams import Server, _Proxied


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
        assert server.stopped_by == signal.SIGTERM
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


async def prefix_of(proxied: Any, client: str, prefix: str) -> str | None:
    """The path below which a request with this header seems to have come."""
    scope: dict[str, Any] = {"type": "http", "client": (client, 1), "scheme": "http", "path": "/v1/models"}
    scope |= {"headers": [(b"x-forwarded-prefix", prefix.encode())], "state": {}}
    await proxied(scope, None, None)
    assert scope["path"] == "/v1/models"
    return scope["state"].get("prefix")


@pytest.mark.parametrize(
    ("client", "prefix", "found"),
    [
        ("127.0.0.1", "/sana", "/sana"),
        ("127.0.0.1", "/a/b-1/", "/a/b-1"),
        ("192.0.2.7", "/sana", None),
        ("127.0.0.1", "", None),
        ("127.0.0.1", "/", None),
        ("127.0.0.1", "sana", None),
        ("127.0.0.1", "//evil.example", None),
        ("127.0.0.1", "/../x", None),
        ("127.0.0.1", "/a?b", None),
        ("127.0.0.1", "/" + "a/" * 1000, None),
    ],
)
def test_the_prefix_of_a_proxy_is_believed_if_it_is_a_path_and_the_proxy_is_trusted(
    client: str, prefix: str, found: str | None
) -> None:
    async def nothing(*_: Any) -> None:
        pass

    assert asyncio.run(prefix_of(_Proxied(nothing, "127.0.0.1"), client, prefix)) == found


def test_addresses_of_images_are_below_the_prefix_and_routes_are_not(make_parts: Any) -> None:
    parts = make_parts()
    parts.client = TestClient(_Proxied(parts.app, "testclient"), base_url="http://127.0.0.1")
    parts.client.headers = {"X-Forwarded-Prefix": "/sana"}
    url = parts.draw(response_format="url").json()["data"][0]["url"]
    assert url.startswith("http://127.0.0.1/sana/v1/pictures/")
    job = parts.client.post("/v1/jobs", json={"prompt": "x", "size": "64x64", "steps": 1})
    assert job.headers["Location"] == f"http://127.0.0.1/sana/v1/jobs/{job.json()['id']}"
    for path in ("/sana/v1/models", "/sana/sana/v1/models"):  # the proxy takes the prefix off
        assert parts.client.get(path).status_code == 404
    del parts.client.headers["X-Forwarded-Prefix"]
    url = parts.draw(response_format="url").json()["data"][0]["url"]
    assert url.startswith("http://127.0.0.1/v1/pictures/")


def test_the_server_reads_the_headers_of_proxies_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.9")
    server = Server("127.0.0.1", 0, 1.0)
    monkeypatch.setattr(server, "run", lambda sockets: None)
    server.run_app(answer, print, print)
    assert isinstance(server.config.app, _Proxied)
    assert "10.0.0.9" in server.config.app.trusted_hosts
    assert "127.0.0.1" not in server.config.app.trusted_hosts
    server.config.load()
    assert server.config.loaded_app is server.config.app
    server.close()
