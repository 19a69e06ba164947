"""/docs tells of every address, loads nothing from elsewhere, and its commands are answered."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image

from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.http.docs.examples import EXAMPLES, START
from sanakit.serve.http.docs.page import docs_page

REACHES_OUT = ("script", "link", "img", "iframe", "object", "embed", "base", "form")


class _Reader(HTMLParser):
    """What a browser would find: elements, addresses, texts of <pre>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [value for name in ("href", "src") if (value := found.get(name))]
        self.names |= {found["id"]} if found.get("id") else set()


def page_of(parts: Any, **headers: str) -> str:
    answer = parts.client.get("/docs", headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    return answer.text


def test_the_page_is_complete_without_a_network(parts: Any) -> None:
    answer = parts.client.get("/docs")
    reader = _Reader(answer.text)
    assert not {*reader.tags} & {*REACHES_OUT}
    assert {link for link in reader.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in reader.links if link.startswith("#")} <= reader.names
    assert "url(" not in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "/docs" not in parts.client.get("/openapi.json").json()["paths"]


def test_every_address_has_its_meaning_its_fields_and_a_command(parts: Any) -> None:
    page, schema = unescape(page_of(parts)), parts.app.openapi()
    listed = {(method, path) for path, methods in schema["paths"].items() for method in methods}
    assert listed == {*EXAMPLES}
    for method, path in listed:
        operation = schema["paths"][path][method]
        section = page.partition(f"<code>{method.upper()} {path}</code></h3>")[2].partition("<h3>")[0]
        said = re.sub(r"<[^>]+>", "", section).lstrip()
        assert said.startswith(operation["description"].split("\n")[0])
        assert EXAMPLES[method, path].rstrip() in section
        for one in operation.get("parameters", ()):
            assert f"<code>{one['name']}</code>" in section
        for content in operation.get("requestBody", {}).get("content", {}).values():
            model = content["schema"]["$ref"].rpartition("/")[2]
            for field in schema["components"]["schemas"][model]["properties"]:
                assert f"<td><code>{field}</code></td>" in section
        for status in operation["responses"]:
            assert f"<li>{status}: " in section


def test_the_address_of_the_caller_is_text_and_no_markup(parts: Any) -> None:
    page = docs_page(parts.app.openapi(), "http://a<script>.b", videos=True)
    assert "<script>" not in page
    assert "http://a&lt;script&gt;.b/v1" in page
    assert "http://sana.example/v1" in page_of(parts, Host="sana.example")


def test_a_server_without_a_video_model_says_so(parts: Any) -> None:
    pages = [docs_page(parts.app.openapi(), "http://x", videos=videos) for videos in (True, False)]
    assert ["draws no videos" in page for page in pages] == [False, True]


def test_who_reads_it_needs_no_key(make_parts: Any) -> None:
    assert make_parts(local=False).client.get("/docs").status_code == 200


def commands(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield the requests of an example: the variable it fills or "", curl's words, and the keys taken."""
    for line in text.replace("\\\n", " ").splitlines():
        name, ask = re.match(r"(?:(\w+)=\$\()?(?:until )?ask (.*?)(?:; do.*)?$", line).groups()  # pyright: ignore
        ask, _, taken = (ask.removesuffix(")") if name else ask).partition(" | ")
        yield name or "", shlex.split(ask), taken.split("|")[0].split()[1:]


def sent(parts: Any, words: list[str], known: dict[str, str], files: dict[str, bytes]) -> Any:
    """Send what curl would; keep what -o names."""
    method, url, headers, form, body, output = "GET", "", {}, [], None, None
    rest = iter(words)
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(rest)
        elif word == "-F":
            form.append(next(rest).partition("=")[::2])
        elif word == "-o":
            output = next(rest)
        else:
            assert not word.startswith("-")
            assert not url
            url = word
    for name, value in known.items():
        url = url.replace(f"${name}", value)
    uploads = {name: (value[1:], files[value[1:]], "image/png") for name, value in form if value[0] == "@"}
    fields = {name: value for name, value in form if value[0] != "@"}
    method = "POST" if body is not None or form else method
    asked = {"data": fields, "files": uploads} if form else {"content": body}
    answer = parts.client.request(method, url, headers=headers, **asked)
    if output:
        files[output] = answer.content
    return answer


@pytest.mark.thorough
def test_the_commands_are_answered_in_their_order(make_parts: Any, clip_engine: ClipEngine) -> None:
    """All but the waiting is done as a shell does it: variables, files, the keys that are taken."""
    parts = make_parts(clips=clip_engine)
    parts.runner.start()
    known, files = {"SANA": "http://127.0.0.1"}, {}
    for (method, path), text in EXAMPLES.items():
        for name, words, keys in commands(text):
            while True:
                answer = sent(parts, words, known, files)
                found = answer.json() if keys else None
                for key in keys:
                    found = found[int(key) if key.isdigit() else key]
                if not text.startswith("until") or found in ("completed", "failed"):
                    break
            cancelled = (method, path) == ("delete", "/v1/jobs/{job_id}")
            assert answer.status_code in ((200, 409) if cancelled else (200, 202)), (path, answer.text)
            if name:
                known[name] = found
    assert Image.open(io.BytesIO(files["green.png"])).size == Image.open(io.BytesIO(files["apple.png"])).size
    assert files["cat.mp4"]
    assert json.loads(re.findall(r"-d '(.*?)'", EXAMPLES["post", "/v1/jobs"])[0])["n"] == 2


def test_what_is_typed_first_defines_what_the_commands_use() -> None:
    used = set(re.findall(r"\b(ask|take)\b", "".join(EXAMPLES.values())))
    assert used == set(re.findall(r"^(\w+)\(\)", START, flags=re.MULTILINE))
