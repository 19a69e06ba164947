"""Shared by all routes: the settings of the HTTP side, and the parts behind it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request as HTTPRequest

from sanakit.errors import SettingsError
from sanakit.pipelines.request import Request
from sanakit.pipelines.upscale.lanczos import enlarged_size
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.http.access import Access
from sanakit.serve.http.metrics import Metrics
from sanakit.serve.http.openai_schema import DrawingSettings
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.storage import ImageStore

log = logging.getLogger(__name__)

Work = TypeVar("Work")


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpSettings:
    """Limits on requests, and what answers and logs show."""

    no_auth: bool = False  # let everybody in, whatever keys exist
    local: bool = True  # bound to loopback: without keys, the people of this machine may enter
    origins: tuple[str, ...] = ()  # of web pages that may call from a browser
    body_limit: int = 20_000_000  # bytes
    max_steps: int = 200  # of one request
    max_side: int = 4096  # pixels
    max_frames: int = 1024  # of one clip
    max_jobs: int = 1000  # that wait
    previews: bool = True  # show images before they are done; no filter looks at those
    metrics: bool = True
    log_prompts: bool = False
    json_log: bool = False  # one JSON object a line


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """The parts behind the routes."""

    engine: Engine
    jobs: JobStore
    store: ImageStore
    access: Access
    metrics: Metrics
    settings: HttpSettings
    draining: threading.Event  # set when the server is to stop
    wake: Callable[[], None]  # tells the job runner that there is something new
    clips: ClipEngine | None = None  # None: no video model is served
    worlds: WorldEngine | None = None  # None: no world model is served
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def models(self) -> list[str]:
        """The names of all models, those of images first."""
        clips, worlds = self.clips, self.worlds
        return [*self.engine.specs, *(clips.specs if clips else ()), *([worlds.name] if worlds else ())]

    async def decode(self, work: Callable[[], Work]) -> Work:
        """Return what a function returns that decodes or encodes uploads, in a thread for that."""
        return await asyncio.get_running_loop().run_in_executor(self.engine.decoding.threads, work)

    def check_sides(self, width: int, height: int) -> None:
        """Raise SettingsError for an image that is larger than this server draws."""
        if max(width, height) > self.settings.max_side:
            raise SettingsError(
                f"{width}x{height} is larger than this server allows: sides may have at most "
                f"{self.settings.max_side} px.",
                setting="size",
            )

    def check_steps(self, steps: int | None) -> None:
        """Raise SettingsError for more steps than this server allows."""
        if steps is not None and steps > self.settings.max_steps:
            text = f"steps = {steps}, but this server allows at most {self.settings.max_steps}."
            raise SettingsError(text, setting="steps")

    def check(self, asked: DrawingSettings, **source: Any) -> Request:
        """Check what a body asks for against the model and this server's limits; blocks for a moment.

        source: image, mask and strength of an edit; control: the decoded images of `asked.control`. Raises
        SettingsError, SizeError, ModelNotFoundError.
        """
        width, height = asked.sides
        self.check_steps(asked.steps)
        request = self.engine.check(
            asked.model,
            asked.prompt,
            asked.negative_prompt or "",
            width=width,
            height=height,
            steps=asked.steps,
            guidance=asked.guidance,
            guidance_kind=asked.guidance_kind,
            prompt_weights=bool(asked.prompt_weights),
            seed=asked.seed,
            num_images=asked.n or 1,
            solver=asked.solver,
            adapters=asked.adapters,
            **source,
        )
        height, width = request.size
        self.check_sides(width, height)
        if asked.upscale is not None:
            self.check_sides(*enlarged_size((width, height), asked.upscale))
        return request


def note_prompt(service: Service, client: HTTPRequest, prompt: str, negative_prompt: str | None) -> None:
    """Log what is to be drawn, where that is allowed."""
    if service.settings.log_prompts:
        log.info("%s prompt %r negative %r", request_id(client), prompt, negative_prompt or "")


def request_id(client: HTTPRequest) -> str:
    """Return the id that the log and the answer's X-Request-Id carry."""
    return client.scope["state"]["request_id"]


def address(client: HTTPRequest, route: str, **path: str) -> str:
    """Return the address of a route as the client reaches it, below the prefix of a trusted proxy."""
    url = client.url_for(route, **path)
    return str(url.replace(path=client.scope["state"].get("prefix", "") + url.path))
