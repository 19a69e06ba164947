"""The page /docs, written from the schema of /openapi.json: plain HTML, without scripts, fonts or images.

Each address has its meaning, its parameters, the fields of its body, its answers, and commands to copy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from sanakit.serve.http.answers import REF
from sanakit.serve.http.docs.examples import EXAMPLES, START

Schema = Mapping[str, Any]
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
_TITLES = {
    "images": "Images, drawn while the caller waits",
    "jobs": "Jobs, drawn later",
    "videos": "Videos",
    "worlds": "Worlds to walk through",
    "models": "Models",
    "watch": "Watching the server",
}
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 3rem; border-bottom: 1px solid }
h3 { margin-top: 2.5rem } h3 code { font-size: 1.1rem }
pre { padding: .8rem; overflow-x: auto; border: 1px solid; border-radius: .3rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8886 }
a { color: LinkText }
"""


def add_docs(app: FastAPI, *, videos: bool) -> None:
    """Serve the page at /docs, open to all as /openapi.json is. videos: whether a model draws them here."""

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        page = docs_page(app.openapi(), str(request.base_url).rstrip("/"), videos=videos)
        return HTMLResponse(page, headers=HEADERS)


def docs_page(schema: Schema, address: str, *, videos: bool) -> str:
    """Return the page. schema: of OpenAPI 3.1. address: of the server, without a slash at the end."""
    return "\n".join(["<!doctype html>", *_page(schema, address, videos)])


def _page(schema: Schema, address: str, videos: bool) -> Iterator[str]:
    info = schema["info"]
    groups: dict[str, list[tuple[str, str, Schema]]] = {tag: [] for tag in _TITLES}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append((method, path, operation))
    yield '<html lang="en"><head><meta charset="utf-8"><title>sanakit: the API</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style></head><body><main>"
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['summary'])}</p>"
    yield "<p>OpenAI's clients need two words: <code>OpenAI(base_url=\""
    yield f'{escape(address)}/v1", api_key="none")</code>. For programs, the same as on this page is in '
    yield '<a href="openapi.json">openapi.json</a>. A browser needs no more than this page.</p>'
    yield "<h2>Begin</h2><p>The commands below are for a shell with curl and Python. Type this first:</p>"
    yield _code(START.format(address=address))
    yield "<nav><ul>"
    for tag in filter(groups.get, groups):
        yield f'<li><a href="#{escape(tag)}">{escape(_TITLES.get(tag, tag))}</a></li>'
    yield '<li><a href="#objects">Objects</a></li></ul></nav>'
    for tag in filter(groups.get, groups):
        yield f'<h2 id="{escape(tag)}">{escape(_TITLES.get(tag, tag))}</h2>'
        if tag == "videos" and not videos:
            yield "<p>This server draws no videos: start it with <code>--model</code> and a video model.</p>"
        for method, path, operation in groups[tag]:
            yield from _operation(method, path, operation, schema["components"]["schemas"])
    yield '<h2 id="objects">Objects</h2>'
    for name, model in sorted(schema["components"]["schemas"].items()):
        yield f'<h3 id="{escape(name)}"><code>{escape(name)}</code></h3>'
        yield _paragraphs(model.get("description", ""))
        yield _fields(model)
    yield "</main></body></html>"


def _operation(method: str, path: str, operation: Schema, models: Schema) -> Iterator[str]:
    yield f"<h3><code>{method.upper()} {escape(path)}</code></h3>"
    yield _paragraphs(operation.get("description", ""))
    yield _code(EXAMPLES[method, path])
    if given := operation.get("parameters"):
        rows = [
            (one["name"], one.get("required", False), {**one["schema"], **_described(one)}) for one in given
        ]
        yield f"<p>In the address or its headers:</p>{_table(rows)}"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        name = content["schema"]["$ref"].removeprefix(REF)
        yield f"<p>Body, <code>{escape(kind)}</code>:</p>{_fields(models[name])}"
    yield "<p>Answers:</p><ul>"
    for status, answer in operation["responses"].items():
        found = (content.get("schema", {}).get("$ref") for content in answer.get("content", {}).values())
        links = " ".join(_link(ref) for ref in found if ref)
        yield f"<li>{escape(status)}: {escape(answer['description'])} {links}</li>"
    yield "</ul>"


def _described(one: Schema) -> dict[str, Any]:
    return {"description": one["description"]} if "description" in one else {}


def _fields(model: Schema) -> str:
    needed = model.get("required", ())
    return _table([(name, name in needed, field) for name, field in model.get("properties", {}).items()])


def _table(rows: Sequence[tuple[str, bool, Schema]]) -> str:
    """Return a table of fields: name, whether it is needed, and its schema."""
    if not rows:
        return ""
    lines = [
        f"<tr><td><code>{escape(name)}</code></td><td>{_kind(field)}{', needed' if needed else ''}</td>"
        f"<td>{_words(field.get('description', ''))}{_default(field)}</td></tr>"
        for name, needed, field in rows
    ]
    head = "<thead><tr><th>name</th><th>values</th><th>meaning</th></tr></thead>"
    return f'<div class="wide" tabindex="0"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def _default(field: Schema) -> str:
    value = field.get("default")
    return "" if value is None else f" Default: <code>{escape(str(value))}</code>."


def _kind(field: Schema) -> str:
    """Return the values of a field in words, with links to the objects among them."""
    if "$ref" in field:
        return _link(field["$ref"])
    if kinds := field.get("anyOf"):
        return " or ".join(_kind(kind) for kind in kinds if kind != {"type": "null"})
    if "enum" in field or "const" in field:
        values = field.get("enum", [field.get("const")])
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    kind = escape(str(field.get("type", "anything")))
    if kind == "array":
        return f"list of {_kind(field.get('items', {}))}"
    kind = "file" if field.get("format") == "binary" else kind
    least, most = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum")
    span = [f"from {least:.12g}"] if least is not None else []
    span += [f"to {most:.12g}"] if most is not None else []
    return " ".join([kind, *span])


def _link(reference: str) -> str:
    name = escape(reference.removeprefix(REF))
    return f'<a href="#{name}">{name}</a>'


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_words(part)}</p>" for part in text.split("\n\n") if part)


def _words(text: str) -> str:
    """Return text with what stands in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _code(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text.rstrip())}</code></pre>'
