"""A judge behind a server, which here runs in this process."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from sanakit.errors import DataError, ModelNotFoundError, SettingsError, WeightsError
from sanakit.eval.benchmarks.vqa import endpoint_judge, is_yes, transformers_judge

pytest.importorskip("openai")


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Says yes when the image is red and the question ends as asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            picture, text = body["messages"][0]["content"]
            content = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
            red = Image.open(io.BytesIO(content)).getpixel((0, 0)) == (255, 0, 0)
            fits = text["text"] == "Is it red? Answer with one word, yes or no."
            answer = {
                "choices": [{"message": {"role": "assistant", "content": "Yes." if red and fits else "No"}}]
            }
            known = body["model"] == "looker"
            self.send_response(200 if known else 400 if body["model"] == "refuser" else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(
                json.dumps(answer if known else {"error": {"message": "no such model"}}).encode()
            )

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_is_shown_the_picture_and_asked_the_question(server: HTTPServer) -> None:
    ask = endpoint_judge(f"http://127.0.0.1:{server.server_port}/v1", "looker")
    assert ask(Image.new("RGB", (4, 4), "red"), "Is it red?")
    assert not ask(Image.new("RGB", (4, 4), "blue"), "Is it red?")


def test_a_model_that_the_server_lacks_is_named(server: HTTPServer) -> None:
    ask = endpoint_judge(f"http://127.0.0.1:{server.server_port}/v1", "other")
    with pytest.raises(ModelNotFoundError, match="'other'"):
        ask(Image.new("RGB", (4, 4)), "Is it red?")


def test_a_picture_that_the_server_refuses_is_no_answer_at_all(server: HTTPServer) -> None:
    ask = endpoint_judge(f"http://127.0.0.1:{server.server_port}/v1", "refuser")
    with pytest.raises(DataError, match="refused an image"):
        ask(Image.new("RGB", (4, 4)), "Is it red?")


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="http://localhost"):
        endpoint_judge("localhost", "looker")


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("yes", True), ("Yes.", True), (' "YES"', True), ("no", False), ("", False), ("yesterday", False)],
)
def test_an_answer_is_yes_only_when_it_begins_with_it(answer: str, yes: bool) -> None:
    assert is_yes(answer) is yes


def test_a_folder_without_a_model_is_refused(tmp_path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(WeightsError, match="not a vision-language model"):
        transformers_judge(tmp_path)
