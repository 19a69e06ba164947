"""The page of `sana ui` on an application: beside the API, or alone as in a Hugging Face Space.

Nothing here asks another host for anything, and nothing is served but the page's own files and what was drawn
or uploaded on it. The page itself is `page.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from sanakit.errors import SanaError, SettingsError
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.http.access import Caller, check_origin
from sanakit.serve.http.failures import FailureError, failure_of
from sanakit.serve.http.service import Service
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.keys import Key, KeyStore
from sanakit.serve.jobs.storage import ImageStore
from sanakit.serve.web.endpoints import Endpoints
from sanakit.serve.web.gradio_seams import Blocks, Lock, NoFetching, end_streams, lock_of
from sanakit.serve.web.history import History
from sanakit.serve.web.live.drawings import LiveDrawings
from sanakit.serve.web.live.routes import live_routes
from sanakit.serve.web.live.tab import CSS as LIVE_CSS
from sanakit.serve.web.live.tab import HEAD, LIVE, LiveTab
from sanakit.serve.web.messages import SCRIPT, tie
from sanakit.serve.web.page import Page
from sanakit.serve.web.parts import VIDEO, WORLD, make_head, make_mode
from sanakit.serve.web.style import CSS, ICON, JS, theme
from sanakit.serve.web.video.tab import VideoTab
from sanakit.serve.web.world.panel import CSS as WORLD_CSS
from sanakit.serve.web.world.routes import page_walks
from sanakit.serve.web.world.tab import WorldTab

OPEN = ("/health", "/ready", "/metrics", "/openapi.json", "/docs")  # to all; /v1/ has its own guard
MAX_UPLOAD = 20_000_000  # bytes
UPLOADS = "uploads"  # in the page's folder
MOST_WAITING = 64  # events of all visitors that wait for their turn
KEEP_COPIES = (600, 3600)  # seconds: how often Gradio's cache is looked through, and when a copy is old


class _Shared(TypedDict):
    private: bool
    charge: Callable[[str, int], Callable[[], None]] | None


def build_page(
    engine: Engine,
    store: ImageStore,
    jobs: JobStore | None = None,
    *,
    clips: ClipEngine | None = None,
    worlds: WorldEngine | None = None,
    private: bool = False,
    charge: Callable[[str, int], Callable[[], None]] | None = None,
    folder: Path | None = None,
) -> Blocks:
    """Return the page: what there are models for, images, clips, worlds or all of them.

    clips: the engine of clips. worlds: that of walks, whose routes `add_page` puts beside the page. store:
    where images and clips are kept. jobs: whose images are shown in the gallery, too. private: each visitor
    sees only what was drawn in this tab; for pages that are shared by the public. charge: called with who is
    logged in and a number of images before they are drawn; raises SanaError if it is too many, and returns
    what takes it back. folder: for uploads and copies of what is shown, which must be private; None:
    temporary ones.
    """
    if folder is not None:
        os.environ["GRADIO_TEMP_DIR"] = str(folder / UPLOADS)  # Gradio has no other way to be told
    history, shared = History(store, jobs, folder), _Shared(private=private, charge=charge)
    more = [VIDEO] * bool(clips) + [WORLD] * bool(worlds)
    page = Page(engine, history, more_modes=[LIVE, *more], **shared) if engine.specs else None
    tab = VideoTab(clips, history, engine.decoding, **shared) if clips else None
    world = WorldTab(worlds, engine.decoding, charge=charge) if worlds else None
    with Blocks(
        title="sanakit", analytics_enabled=False, fill_width=True, delete_cache=KEEP_COPIES
    ) as blocks:
        if page is not None:
            page.lay_out()
            Endpoints(page).lay_out()
            tie(blocks.load, page.kept.list_recent, [], [page.stage.recent])
            drawings = LiveDrawings(engine)
            LiveTab(drawings, history, private=private).lay_out()
            blocks.router = live_routes(drawings, charge)
        else:
            make_head(make_mode(more))
        if tab is not None:
            tab.lay_out()
        if world is not None:
            world.lay_out(blocks)
    for part in (page, tab, world):
        if part is not None:
            blocks.unload(part.cancel)
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=8, api_open=False)
    return blocks


def mount_page(app: FastAPI, blocks: Blocks, path: str = "/", **options: Any) -> FastAPI:
    """Put the page on an application that may hold the API already; gives the application back.

    options: of `gr.mount_gradio_app`, such as `auth` or `root_path`.
    """
    app.add_middleware(NoFetching)
    if blocks.router is not None:
        app.include_router(blocks.router)
    gr.mount_gradio_app(
        app,
        blocks,
        path,
        theme=theme(),
        css_paths=[CSS, LIVE_CSS, WORLD_CSS],
        head=f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>" + (HEAD if blocks.router else ""),
        js=JS,
        favicon_path=ICON,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        **options,
    )
    app.state.page_lock = lock_of(app)  # for the routes
    return app


def add_page(app: FastAPI, folder: Path) -> None:
    """Put the page beside the API that `create_app` made: the same engine, images and access control.

    Where the API needs a key, from the moment it does, the page has a login: the key's name, and the key as
    password. Images are then kept by key, and count for its limits. Else, what this machine alone can reach
    has one gallery, and answers to this machine's names alone. folder: see `build_page`.
    """
    service: Service = app.state.service
    settings, keys = service.settings, KeyStore(service.jobs.database)

    def is_known(name: str, token: str) -> bool:
        key = keys.verify(token.strip())
        return key is not None and key.name == name

    def charge(name: str, num_images: int) -> Callable[[], None]:
        return _charge(service, keys.named(name), num_images)

    blocks = build_page(
        service.engine,
        service.store,
        service.jobs,
        clips=service.clips,
        worlds=service.worlds,
        private=not settings.local or settings.no_auth,
        charge=charge,
        folder=folder,
    )
    if service.worlds is not None:
        app.include_router(page_walks(service, service.worlds))
    mount_page(app, blocks, auth_message="Your key's name, and the key.", allowed_paths=[str(folder)])
    end_streams(app, service.draining)
    app.add_middleware(_PageGuard, service=service, lock=app.state.page_lock, is_known=is_known)
    app.router.routes[-1] = _BesideApi(app.router.routes[-1])


def _charge(service: Service, key: Key | None, num_images: int) -> Callable[[], None]:
    if key is None:
        raise SettingsError("This key was revoked: log in with another one.")
    try:
        service.access.charge(Caller(key), num_images)
    except FailureError as error:
        raise SettingsError(error.failure.message) from None
    return partial(service.access.refund, Caller(key), num_images)


def _of_api(path: str) -> bool:
    return path.startswith("/v1/") or path in OPEN


class _BesideApi(BaseRoute):
    """The route of the page, which takes every address but those of the API: unknown ones and wrong methods
    there are answered in the API's form.
    """

    def __init__(self, page: BaseRoute) -> None:
        self._page = page

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the page answers a request."""
        return (Match.NONE, {}) if _of_api(scope.get("path", "")) else self._page.matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that matches."""
        await self._page.handle(scope, receive, send)


class _PageGuard:
    """Does for the page what `AccessGuard` does for the API: names of hosts, origins of other pages, and the
    login once there are keys.

    lock: of the page. is_known: whether a name and a key belong together.
    """

    def __init__(
        self, app: ASGIApp, service: Service, lock: Lock, is_known: Callable[[str, str], bool]
    ) -> None:
        self._app, self._service, self._lock, self._is_known = app, service, lock, is_known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        path = scope.get("path", "")
        if scope["type"] == "http" and not _of_api(path):
            try:
                headers = Headers(scope=scope)
                host = headers.get("host", "")
                check_origin(headers.get("origin"), host, self._service.settings.origins)
                await asyncio.to_thread(self._check, host)
            except (FailureError, SanaError) as error:
                await failure_of(error, "of the page").response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, host: str) -> None:
        self._service.access.check_host(host)
        if self._lock.is_open and self._service.access.needs_key():
            self._lock.close(self._is_known)
