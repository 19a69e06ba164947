"""/docs tells of every address and loads nothing from elsewhere."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import Any

from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.http.docs.examples import EXAMPLES
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


def test_every_address_has_its_meaning_its_fields_and_a_command(
    make_parts: Any, world_engine: WorldEngine
) -> None:
    parts = make_parts(worlds=world_engine)
    page, schema = unescape(page_of(parts)), parts.app.openapi()
    listed = {(method, path) for path, methods in schema["paths"].items() for method in methods}
    assert listed == {*EXAMPLES}
    for method, path in listed:
        operation = schema["paths"][path][method]
        section = page.partition(f"<code>{method.upper()} {path}</code></h3>")[2].partition("<h3>")[0]
        said = re.sub(r"<[^>]+>", "", section).lstrip()
        assert said.startswith(operation["description"].split("\n")[0].replace("`", ""))
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
