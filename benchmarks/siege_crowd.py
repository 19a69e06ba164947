"""The crowd of `siege.py`: clients that draw, edit, stream, leave, repeat themselves and send nonsense.

What a client does next comes from its own random numbers, so a seed gives the same crowd. Each deed knows the
answers that are right for it; what all clients saw goes into one `Seen`. A refusal that says "later" (429,
503) is waited for as it asks, and is never wrong.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

GENERATIONS, EDITS, JOBS = "/v1/images/generations", "/v1/images/edits", "/v1/jobs"
THINGS = ("a red apple", "a green frog", "a yellow pear", "a sailboat", "two cherries", "a blue whale")
SIZES = ((64, 64), (64, 64), (96, 64), (128, 128), (192, 192))  # small ones more often
STEPS = (1, 2, 2, 3)
LATER = (429, 503)
LONGEST = 600.0  # seconds without a byte of an answer; a full queue takes minutes on a busy machine
PATIENCE = 60.0  # seconds in which the server has let go of a request that is never completed


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, or what came of one."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of an error; empty where the answer has none."""
        with suppress(ValueError, KeyError, TypeError):
            return json.loads(self.body)["error"]["code"] or ""
        return ""

    def json(self) -> Any:
        """Return the body."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A job that was answered with 202: its images and how it must end."""

    pictures: int
    size: tuple[int, int]
    end: str  # "finished" or "cancelled"


@dataclass(slots=True)
class Seen:
    """What all clients saw. routes: by method and pattern of the path, the documented statuses."""

    routes: dict[tuple[str, str], set[int]]
    errors: dict[int, set[str]]  # documented codes of each status
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)  # by status and code
    deeds: Counter[str] = field(default_factory=Counter)
    opened: int = 0  # images
    faults: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, AcceptedJob] = field(default_factory=dict)
    # Idempotency-Key and body of jobs whose client left, and the job if it left too late.
    unheard: list[tuple[str, dict[str, Any], str | None]] = field(default_factory=list)

    def fault(self, sentence: str) -> None:
        """Count something that must not be."""
        self.faults[sentence] += 1

    def take(self, answer: Answer) -> Answer:
        """Count an answer, and hold it against what is documented."""
        code = answer.code
        self.answers[answer.status, code] += 1
        said = f"{answer.method} {answer.path.partition('?')[0]}: {answer.status} {code}".rstrip()
        if answer.status >= 400 and answer.method != "HEAD":
            if code not in self.errors.get(answer.status, ()):
                self.fault(f"{said} is not documented ({answer.body[:80]!r})")
            if answer.headers.get("x-should-retry") not in ("true", "false"):
                self.fault(f"{said} does not say whether asking again helps")
        if answer.status in LATER and not answer.headers.get("retry-after", "").isdecimal():
            self.fault(f"{said} does not say when")
        known = self._statuses(answer.method, answer.path.partition("?")[0])
        if answer.status not in known:
            self.fault(f"{said} is not one of the route's answers, {sorted(known)}")
        return answer

    def _statuses(self, method: str, path: str) -> set[int]:
        method = "GET" if method == "HEAD" else method
        for (one, pattern), statuses in self.routes.items():
            if one == method and re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", pattern), path):
                return statuses
        return {400, 401, 403, 404, 405, 413, 429}  # of an address or a method that is not there

    def open(self, data: bytes, size: tuple[int, int] | None, form: str, where: str) -> None:
        """Open an image that was answered. size: None where any is right."""
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                found = (size and image.size, (image.format or "").lower())
        except Exception as error:
            self.fault(f"{where}: an image does not open ({type(error).__name__})")
            return
        self.opened += 1
        if found != (size, form):
            self.fault(f"{where}: {form} of {size} was asked for, and {found} came")


class Uploads:
    """Images to start from: a few of each kind, made once."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.images: list[tuple[tuple[int, int], bytes]] = []
        self.masks: dict[tuple[int, int], bytes] = {}
        for size in ((64, 64), (96, 64), (128, 128), (200, 120), (320, 256)):
            small = Image.frombytes("RGB", (8, 8), chance.randbytes(192))
            image = small.resize(size, Image.Resampling.BICUBIC)
            for form in ("PNG", "JPEG", "WEBP"):
                self.images.append((size, _file(image, form)))
            mask = Image.new("L", size)
            mask.paste(255, (0, 0, size[0] // 2, size[1]))
            clear = image.copy()
            clear.putalpha(mask.point(lambda value: 255 - value))
            self.images.append((size, _file(clear, "PNG")))
            self.masks[size] = _file(mask, "PNG")


def _file(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


class Client:
    """One client: deed after deed, each of them one method.

    http: knows the server's address; shared. token: of a key without limits. limited: of keys that have them.
    """

    def __init__(
        self,
        number: int,
        seed: int,
        http: httpx.AsyncClient,
        seen: Seen,
        uploads: Uploads,
        token: str,
        limited: list[str],
    ) -> None:
        self.chance = random.Random(f"{seed}-{number}")
        self.http, self.seen, self.uploads = http, seen, uploads
        self.token, self.limited = token, limited
        self.name = f"{seed}-{number}"
        self._keys = 0

    async def run(self, until: float, deeds: Mapping[Callable[[Client], Awaitable[None]], int]) -> None:
        """Do deeds until time.monotonic() is `until`; each is chosen as often as its number says."""
        chosen, weights = list(deeds), list(deeds.values())
        while time.monotonic() < until:
            (deed,) = self.chance.choices(chosen, weights)
            name = getattr(deed, "__name__", "").replace("_", " ")
            self.seen.deeds[name] += 1
            try:
                await deed(self)
            except (httpx.HTTPError, OSError, asyncio.IncompleteReadError) as error:
                self.seen.fault(f"{name}: no answer ({type(error).__name__})")

    async def ask(self, method: str, path: str, *, token: str | None = None, **request: Any) -> Answer:
        """Send a request and take its answer; wait where that says later."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        headers |= request.pop("headers", {})
        answer = await self.http.request(method, path, headers=headers, **request)
        taken = self.seen.take(Answer(method, path, answer.status_code, answer.headers, answer.content))
        if taken.status in LATER and token is None:
            await asyncio.sleep(min(5, float(taken.headers.get("retry-after", 1))))
        return taken

    def expect(self, answer: Answer, status: int, code: str = "") -> bool:
        """Return whether an answer is the right one. "Later" is neither right nor wrong."""
        if (answer.status, answer.code) == (status, code):
            return True
        if answer.status not in LATER:
            came = f"{answer.status} {answer.code}".rstrip()
            self.seen.fault(f"{answer.method} {answer.path}: {came} where {status} {code} is right")
        return False

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the settings of an image; more: in addition, or instead."""
        width, height = self.chance.choice(SIZES)
        guidance = self.chance.choice((1.0, 2.5, 4.0))
        prompt = f"{self.chance.choice(THINGS)}, number {self.chance.randrange(900)}"
        body = {"prompt": prompt, "size": f"{width}x{height}", "steps": self.chance.choice(STEPS)}
        body |= {"guidance": guidance, "n": self.chance.choice((1, 1, 1, 1, 2, 3))}
        if self.chance.random() < 0.7:
            body["seed"] = self.chance.randrange(2**31)
        if guidance > 1 and self.chance.random() < 0.4:
            body["negative_prompt"] = self.chance.choice(("leaf", "green", "text, frame"))
        return body | more

    def formats(self) -> dict[str, Any]:
        """Return how an image is to be answered."""
        return {
            "response_format": self.chance.choice(("b64_json", "b64_json", "url")),
            "output_format": self.chance.choice(("png", "jpeg", "webp")),
        }

    def key(self) -> str:
        """Return an Idempotency-Key that nobody had before."""
        self._keys += 1
        return f"{self.name}-{self._keys}"

    def form(self, **more: Any) -> tuple[dict[str, str], dict[str, Any], tuple[int, int]]:
        """Return fields and files of an edit, and the size of its result."""
        upload, image = self.chance.choice(self.uploads.images)
        fields = {name: str(value) for name, value in self.settings(**more).items()}
        if self.chance.random() < 0.5:
            fields["size"] = "auto"
        files = {"image": ("a.png", image)}
        if self.chance.random() < 0.4:
            files["mask"] = ("mask.png", self.uploads.masks[upload])
        elif self.chance.random() < 0.5:
            fields["strength"] = str(round(self.chance.uniform(0.3, 1), 2))
        return fields, files, upload if fields["size"] == "auto" else sides(fields["size"])

    async def open_all(self, answer: Answer, body: Mapping[str, Any], size: tuple[int, int]) -> None:
        """Open all images of a reply, those by address, too. body: what was asked for."""
        if not self.expect(answer, 200):
            return
        pictures, form, where = answer.json()["data"], body["output_format"], f"POST {answer.path}"
        if len(pictures) != int(body["n"]):
            self.seen.fault(f"{where}: {body['n']} images were asked for, and {len(pictures)} came")
        for picture in pictures:
            if picture["url"] is None:
                self.seen.open(base64.b64decode(picture["b64_json"]), size, form, where)
            else:
                await self.open_address(picture["url"], size, form)

    async def open_address(self, url: str, size: tuple[int, int], form: str) -> None:
        """Open an image by its address."""
        path = httpx.URL(url).path
        got = await self.ask("GET", path)
        if self.expect(got, 200):
            self.seen.open(got.body, size, form, "GET /v1/pictures/NAME")
        if self.chance.random() < 0.3:
            head = await self.ask("HEAD", path)
            same = head.headers.get("content-length") == str(len(got.body))
            if head.body or (head.status == got.status and not same):
                self.seen.fault("HEAD /v1/pictures/NAME differs from GET")

    def raw(self, path: str, body: Any) -> bytes:
        """Return the bytes of a POST, for deeds that send them one by one."""
        content = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {self.token}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}", "Connection: close"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + content

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection of one's own."""
        url = self.http.base_url
        return await asyncio.open_connection(url.host, url.port)

    def take_raw(self, method: str, path: str, came: bytes) -> Answer:
        """Take an answer apart that came as bytes, up to the end of its connection."""
        head, _, body = came.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            body = unchunked(body)
        return self.seen.take(Answer(method, path, int(first.split()[1]), headers, body))


def sides(size: str) -> tuple[int, int]:
    """Return width and height of "128x96"."""
    width, height = size.split("x")
    return int(width), int(height)


def unchunked(body: bytes) -> bytes:
    """Return the content of a body that was sent in chunks. Raises ValueError if its end is missing."""
    content = b""
    while True:
        length, _, body = body.partition(b"\r\n")
        if (count := int(length, 16)) == 0:
            return content
        content, body = content + body[:count], body[count + 2 :]
