"""`sana serve` as a process: how it starts, whom it refuses, how it stops, in good order or not."""

from __future__ import annotations

import gc
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from sanakit.cli import main
from sanakit.serve.jobs.keys import KeyStore
from sanakit.serve.uvicorn_seams import Server

pytestmark = pytest.mark.thorough

LONG = {"prompt": "a red apple", "size": "64x64", "steps": 200, "stream": True, "partial_images": 3}


class Process:
    """`sana serve` on a free port, with its own folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [
            sys.executable,
            "-c",
            "from sanakit.cli import main; main()",
            "serve",
            "--data",
            str(folder),
        ]
        self.process = subprocess.Popen(
            [*command, "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.announced = ""
        for line in self.process.stdout:
            self.announced += line
            if "Ctrl-C stops" in line:
                break
        else:
            pytest.fail(f"it did not start: {self.process.communicate()}")
        self.address = re.findall(r"http://\S+", self.announced)[0]

    def stream(self, body: dict[str, Any]) -> tuple[threading.Thread, threading.Event, list[str]]:
        """Ask for images in a thread; gives it, what says that they have begun, and the lines that came."""
        begun, lines = threading.Event(), []

        def read() -> None:
            with httpx.stream(
                "POST", f"{self.address}/v1/images/generations", json=body, timeout=60
            ) as answer:
                for line in answer.iter_lines():
                    lines.append(line)
                    begun.set()

        thread = threading.Thread(target=read)
        thread.start()
        return thread, begun, lines

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=40)
        return self.process.returncode, err


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def start(*options: str) -> Process:
        running.append(Process(tmp_path / "data", *options))
        return running[-1]

    yield start
    for process in running:
        process.process.kill()
        process.process.communicate()


def test_it_tells_how_to_call_it_and_sigterm_lets_what_is_drawn_come_to_its_end(
    serve: Callable[..., Process],
) -> None:
    server = serve()
    assert f"curl {server.address}/v1/images/generations" in server.announced
    assert "pocket" in server.announced
    assert "server" not in httpx.get(f"{server.address}/ready").raise_for_status().headers
    client, begun, lines = server.stream(LONG)
    assert begun.wait(30)
    code, log = server.stop()
    client.join(30)
    assert [line for line in lines if line.startswith("event: ")][-1] == "event: image_generation.completed"
    assert code == 0
    assert "POST /v1/images/generations 200" in log
    assert "Stopping: 1 image left to draw, in at most 30 s." in log
    assert "Stopped: 0 jobs are back in the queue" in log
    assert "red apple" not in log
    assert "Traceback" not in log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.address}/health")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_takes_longer_than_the_drain_ends_with_an_error_and_its_job_waits_for_the_next_start(
    serve: Callable[..., Process], number: int
) -> None:
    server = serve("--drain", "0.2", "--max-steps", "1000")
    body = {"prompt": "a red apple", "size": "64x64", "steps": 1000, "n": 4}
    job = httpx.post(f"{server.address}/v1/jobs", json=body).json()["id"]
    client, begun, lines = server.stream(LONG | body)
    assert begun.wait(30)
    code, log = server.stop(number)
    client.join(30)
    assert code == 0
    assert "Traceback" not in log
    error = json.loads(lines[lines.index("event: error") + 1].removeprefix("data: "))
    assert error["error"]["code"] == "closing"
    assert re.search(r"Stopping: [58] images left", log)
    assert "Stopped: 1 jobs are back in the queue" in log
    again = serve("--max-steps", "1000")
    assert httpx.get(f"{again.address}/v1/jobs/{job}").json()["status"] in ("queued", "running")
    assert httpx.delete(f"{again.address}/v1/jobs/{job}").json()["status"] == "cancelled"


@pytest.mark.slow
def test_under_load_sigterm_lets_no_client_hang_and_no_picture_be_cut(serve: Callable[..., Process]) -> None:
    server, answers, begun = serve("--drain", "2"), [], threading.Semaphore(0)
    body = {"prompt": "a red apple", "size": "64x64", "steps": 30}

    def ask(number: int) -> None:
        while True:
            try:
                address = f"{server.address}/v1/images/generations"
                answer = httpx.post(address, json=body | {"stream": number % 2 == 0}, timeout=30)
            except httpx.ConnectError:
                return
            except httpx.TransportError as error:  # a new request on its way while the port was closed
                answers.append(error)
                return
            answers.append(answer)
            begun.release()

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for client in clients:
        client.start()
    for _ in range(20):
        assert begun.acquire(timeout=60)
    code, log = server.stop()
    for client in clients:
        client.join(30)
        assert not client.is_alive()
    assert code == 0
    assert "Traceback" not in log
    whole = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert {answer.status_code for answer in whole} <= {200, 503}
    for answer in whole:
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "closing"
        elif answer.headers["content-type"].startswith("text/event-stream"):
            last = [line for line in answer.text.splitlines() if line.startswith("event: ")][-1]
            assert last in ("event: image_generation.completed", "event: error")


@pytest.mark.slow
def test_who_never_sends_the_rest_of_a_body_hears_503_when_the_server_stops(
    serve: Callable[..., Process],
) -> None:
    server = serve("--drain", "0")
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n")
        client.sendall(b"Content-Type: application/json\r\n\r\n{")
        while "sana_http_open_requests 2.0" not in httpx.get(f"{server.address}/metrics").text:
            time.sleep(0.01)
        code, log = server.stop()
        assert client.recv(1000).startswith(b"HTTP/1.1 503")
    assert code == 0
    assert "Traceback" not in log


@pytest.mark.slow
def test_killed_again_and_again_it_finishes_every_accepted_job_once(
    serve: Callable[..., Process], tmp_path: Path
) -> None:
    body, file = {"prompt": "a red apple", "size": "64x64", "steps": 20}, io.BytesIO()
    Image.new("RGB", (64, 64), "green").save(file, "PNG")
    accepted, finished = [], {}
    for kills_left in (3, 2, 1, 0):
        server = serve()
        jobs = f"{server.address}/v1/jobs"
        for _ in range(3 if kills_left else 0):
            accepted.append(httpx.post(jobs, json=body | {"n": 2}).json()["id"])
            form = {"data": {"prompt": "x", "steps": "20"}, "files": {"image": file.getvalue()}}
            accepted.append(httpx.post(f"{jobs}/edits", **form).json()["id"])
        wanted, until = len(finished) + 2 if kills_left else len(accepted), time.monotonic() + 60
        while len(finished) < wanted:
            assert time.monotonic() < until
            for job in httpx.get(jobs, params={"limit": 100}).json()["data"]:
                assert job["status"] in ("queued", "running", "finished")
                if job["status"] == "finished":
                    assert finished.setdefault(job["id"], job)["ended"] == job["ended"]
            time.sleep(0.01)
        if kills_left:
            server.process.kill()
            server.process.communicate()
    assert finished.keys() == set(accepted)
    results = {one["url"].rpartition("/")[2] for job in finished.values() for one in job["data"]}
    inputs = {job["request"]["image"] for job in finished.values() if job["kind"] == "edit"}
    assert len(results) == 9 + 18
    assert {path.name for path in (tmp_path / "data" / "pictures").iterdir()} == results | inputs


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--no-auth",)], ids=["key", "no-auth"])
def test_with_a_key_or_no_auth_it_goes_beyond_this_machine(
    serve: Callable[..., Process], tmp_path: Path, options: tuple[str, ...]
) -> None:
    if not options:
        keys = KeyStore(tmp_path / "data" / "jobs.sqlite")
        keys.create("ann")
        keys.close()
    server = serve("--host", "0.0.0.0", *options)
    status = httpx.get(server.address.replace("0.0.0.0", "127.0.0.1") + "/v1/models").status_code
    assert status == (200 if options else 401)


@pytest.fixture
def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run `sana serve` here, which must end by itself with code 2 and one sentence."""
    monkeypatch.setattr(Server, "run_app", lambda *_: pytest.fail("it serves"))

    def run(*options: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(["serve", "--data", str(tmp_path / "data"), *options])
        out, err = capsys.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1)
        return err

    return run


def test_a_port_that_is_taken_is_a_sentence(refused: Callable[..., str]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        warnings.catch_warnings(record=True, category=ResourceWarning) as left_open,
    ):
        warnings.simplefilter("always")
        assert "another program may have the port" in refused("--port", str(taken.getsockname()[1]))
        gc.collect()
    assert [str(one.message) for one in left_open if "socket" in str(one.message)] == []


def test_memory_in_which_the_model_can_not_draw_its_own_size_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    options = ["serve", "--data", str(tmp_path), "--port", "0", "--memory", "80MB"]
    command = [sys.executable, "-c", "from sanakit.cli import main; main()", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.search(r"256x256 px do not fit in 80 MB: allow at least \d+ MB", ended.stderr.splitlines()[-1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "127.evil.example"])
def test_beyond_this_machine_it_wants_a_key(refused: Callable[..., str], host: str) -> None:
    sentence = refused("--host", host)
    assert "sana keys create" in sentence
    assert "--no-auth" in sentence


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--model", "no-such-model"), "no-such-model"),
        (("--body-limit", "much"), "--body-limit"),
        (("--body-limit", "auto"), "--body-limit"),
        (("--database", "mysql://here/there"), "postgresql://"),
        (("--pictures", "nowhere://x"), "fsspec"),
        (("--port", "70000"), "--port"),
    ],
)
def test_slips_are_sentences(refused: Callable[..., str], options: tuple[str, str], word: str) -> None:
    port = () if "--port" in options else ("--port", "0")
    assert word in refused(*port, *options)
