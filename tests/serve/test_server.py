"""`sana serve` as a process: how it starts, whom it refuses, and how it stops in good order."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sanakit.serve.keys import KeyStore

SLOW = {"prompt": "a red apple", "size": "256x256", "steps": 150, "seed": 1}  # a few seconds
QUICK = {"prompt": "a red apple", "size": "64x64", "steps": 2}


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
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://\S+", first)
        assert found, f"{first}{self.process.communicate()}"
        self.announced, self.address = first, found[0]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=40)
        return self.process.returncode, out, err


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_and_how_to_call_it_and_stops_with_code_0(
    serve: Callable[..., Process], number: int
) -> None:
    server = serve()
    assert "pocket" in server.announced
    answer = httpx.post(f"{server.address}/v1/images/generations", json=QUICK, timeout=30)
    assert answer.status_code == 200
    assert "server" not in answer.headers
    code, out, err = server.stop(number)
    assert (code, "curl" in out) == (0, True)
    assert "POST /v1/images/generations 200" in err
    assert "red apple" not in err
    assert "Traceback" not in err


def test_sigterm_lets_what_is_drawn_come_to_its_end(serve: Callable[..., Process]) -> None:
    server = serve()
    answers: list[Any] = []

    def draw() -> None:
        with httpx.stream(
            "POST",
            f"{server.address}/v1/images/generations",
            json=SLOW | {"stream": True, "partial_images": 3},
            timeout=60,
        ) as stream:
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    answers.append(line)
                    begun.set()

    begun = threading.Event()
    client = threading.Thread(target=draw)
    client.start()
    assert begun.wait(30)
    code, _, err = server.stop()
    client.join(30)
    assert answers[-1] == "event: image_generation.completed"
    assert code == 0
    assert "Traceback" not in err
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.address}/health")


def test_what_takes_longer_than_the_drain_gets_503_and_its_job_waits_for_the_next_start(
    serve: Callable[..., Process],
) -> None:
    server = serve("--drain", "0.2")
    job = httpx.post(f"{server.address}/v1/jobs", json=SLOW | {"steps": 200, "n": 4}).json()["id"]
    answers: list[Any] = []

    def draw() -> None:
        body = SLOW | {"steps": 200, "n": 4, "stream": True, "partial_images": 3}
        with httpx.stream("POST", f"{server.address}/v1/images/generations", json=body, timeout=60) as stream:
            for line in stream.iter_lines():
                begun.set()
                answers.append(line)

    begun = threading.Event()
    client = threading.Thread(target=draw)
    client.start()
    assert begun.wait(30)
    code, _, err = server.stop()
    client.join(30)
    assert code == 0
    assert "Traceback" not in err
    error = json.loads(answers[answers.index("event: error") + 1].removeprefix("data: "))
    assert error["error"]["code"] == "closing"
    again = serve()
    assert httpx.get(f"{again.address}/v1/jobs/{job}").json()["status"] in ("queued", "running")
    assert httpx.delete(f"{again.address}/v1/jobs/{job}").json()["status"] == "cancelled"


def refusal(*options: str) -> tuple[int, str]:
    """Run `sana serve`, which must end by itself."""
    command = [sys.executable, "-c", "from sanakit.cli import main; main()", "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, sentence = refusal("--data", str(tmp_path), "--port", str(taken.getsockname()[1]))
    assert (code, "another program may have the port" in sentence) == (2, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_beyond_this_machine_it_wants_a_key(tmp_path: Path, host: str) -> None:
    code, sentence = refusal("--data", str(tmp_path), "--host", host)
    assert (code, "sana keys create" in sentence, "--no-auth" in sentence) == (2, True, True)


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


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--model", "no-such-model"), "no-such-model"),
        (("--body-limit", "much"), "--body-limit"),
        (("--database", "mysql://here/there"), "postgresql://"),
        (("--pictures", "nowhere://x"), "fsspec"),
        (("--port", "70000"), "--port"),
    ],
)
def test_slips_are_sentences(tmp_path: Path, options: tuple[str, str], word: str) -> None:
    code, sentence = refusal("--data", str(tmp_path), *options)
    assert (code, word in sentence) == (2, True)
