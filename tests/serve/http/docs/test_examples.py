"""The commands of /docs are answered in their order, each with what the ones before it left."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.http.docs.examples import EXAMPLES, START


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
def test_the_commands_are_answered_in_their_order(
    make_parts: Any, clip_engine: ClipEngine, world_engine: WorldEngine
) -> None:
    """All but the waiting is done as a shell does it: variables, files, the keys that are taken."""
    parts = make_parts(clips=clip_engine, worlds=world_engine)
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
            assert answer.status_code in ((200, 409) if cancelled else (200, 201, 202)), (path, answer.text)
            if name:
                known[name] = found
    assert Image.open(io.BytesIO(files["green.png"])).size == Image.open(io.BytesIO(files["apple.png"])).size
    assert files["cat.mp4"]
    assert json.loads(re.findall(r"-d '(.*?)'", EXAMPLES["post", "/v1/jobs"])[0])["n"] == 2


def test_what_is_typed_first_defines_what_the_commands_use() -> None:
    used = set(re.findall(r"\b(ask|take)\b", "".join(EXAMPLES.values())))
    assert used == set(re.findall(r"^(\w+)\(\)", START, flags=re.MULTILINE))
