"""Rewards by code of others: functions of modules and files, and endpoints that answer, fail, or err."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sanakit.errors import BusyError, SettingsError
from sanakit.images.image import to_pil
from sanakit.train.reinforce.reward_calls import EndpointReward, FunctionReward

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
ASKED = ["a fox", "ein Füchslein"]


def test_a_function_of_a_file_gets_images_and_prompts(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "def red(images, prompts):\n"
        "    assert [image.mode for image in images] == ['RGB', 'RGB']\n"
        "    return [image.getpixel((0, 0))[0] + len(p) for image, p in zip(images, prompts)]\n"
    )
    reward = FunctionReward.open(f"{tmp_path}/judge.py:red")
    wanted = [image.getpixel((0, 0))[0] + len(p) for image, p in zip(to_pil(IMAGES), ASKED, strict=True)]
    assert reward(IMAGES, ASKED).tolist() == wanted
    assert reward.name == "red"


def test_a_function_may_return_a_tensor() -> None:
    given = torch.tensor([1, 2], dtype=torch.float64)
    assert FunctionReward("one", lambda images, prompts: given)(IMAGES, ASKED).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no.such.module:judge", "cannot be imported"),
        ("/no/such/file.py:judge", "cannot be imported"),
        ("math:judge", "no function 'judge'"),
        ("math:pi", "no function 'pi'"),
    ],
)
def test_functions_that_do_not_exist_are_refused(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        FunctionReward.open(text)


@pytest.mark.parametrize("answer", [None, "good", ["good", "bad"], [[1], [2, 3]]])
def test_answers_that_are_no_numbers_are_refused(answer: Any) -> None:
    with pytest.raises(SettingsError, match="instead of scores"):
        FunctionReward("odd", lambda images, prompts: answer)(IMAGES, ASKED)


class Endpoint(HTTPServer):
    """Answers with what is listed, then scores by the first pixel; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.first: list[tuple[int, bytes]] = []
        self.asked: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/score"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        files = [Image.open(io.BytesIO(base64.b64decode(file))) for file in asked["images"]]
        scores = [image.getpixel((0, 0))[0] for image in files]
        usual = 200, json.dumps({"scores": scores}).encode()
        status, body = self.server.first.pop(0) if self.server.first else usual
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_scores_the_very_pixels(endpoint: Endpoint) -> None:
    reward = EndpointReward(endpoint.url)
    assert reward.name == "127.0.0.1"
    assert reward(IMAGES, ASKED).tolist() == [image.getpixel((0, 0))[0] for image in to_pil(IMAGES)]
    assert endpoint.asked[0]["prompts"] == ASKED


def test_faults_that_pass_are_asked_again(endpoint: Endpoint) -> None:
    endpoint.first = [(503, b""), (429, b""), (500, b"")]
    assert len(EndpointReward(endpoint.url, pause=0.001)(IMAGES, ASKED)) == 2
    assert len(endpoint.asked) == 4


def test_faults_that_stay_are_told_with_the_attempts(endpoint: Endpoint) -> None:
    endpoint.first = [(503, b"")] * 9
    with pytest.raises(BusyError, match=r"does not answer \(503 .*tried 3 times.*--resume"):
        EndpointReward(endpoint.url, retries=2, pause=0.001)(IMAGES, ASKED)


def test_a_refusal_is_not_asked_again(endpoint: Endpoint) -> None:
    endpoint.first = [(404, b"")]
    with pytest.raises(SettingsError, match=r"refuses images \(404"):
        EndpointReward(endpoint.url, pause=0.001)(IMAGES, ASKED)
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1, 2]", b'{"score": [1, 2]}', b"[" * 9000, b'"\xff"'])
def test_an_answer_without_scores_is_told(endpoint: Endpoint, body: bytes) -> None:
    endpoint.first = [(200, body)]
    with pytest.raises(SettingsError, match="without scores"):
        EndpointReward(endpoint.url)(IMAGES, ASKED)


def test_a_silent_endpoint_is_not_waited_for_for_ever() -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BusyError, match=r"timed out.*tried 2 times"):
            EndpointReward(url, timeout=0.05, retries=1, pause=0.001)(IMAGES, ASKED)


def test_an_address_where_nobody_listens_is_told() -> None:
    with pytest.raises(BusyError, match="refused"):
        EndpointReward("http://127.0.0.1:9", retries=0)(IMAGES, ASKED)
