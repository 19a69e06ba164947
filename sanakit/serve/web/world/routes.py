"""The walks of the page over HTTP: the routes of the API under a prefix of their own, and the tab's scripts.

A browser sends no key with them: a walk's unguessable name is the key, which only the page that entered it
knows. Its chunks count for the login that entered it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, Request, Response

from sanakit.errors import SettingsError
from sanakit.serve.engine.walk import Walk
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.http.access import Caller
from sanakit.serve.http.service import Service
from sanakit.serve.http.worlds.worlds_api import Tenancy, walk_routes
from sanakit.serve.jobs.keys import KeyStore

PREFIX = "/walks"
OWNER = "page"  # of its walks; no key has such an id
SCRIPTS = ("world.js", "walk.js", "player.js")


def page_walks(service: Service, worlds: WorldEngine) -> APIRouter:
    """Return the routes of the page's walks; they are not part of the API's schema."""
    keys = KeyStore(service.jobs.database)

    def charge(client: Request, walk: Walk | None, count: int) -> Callable[[int], None]:
        if walk is None or walk.payer is None:
            return lambda left: None
        key = keys.named(walk.payer)
        if key is None:
            raise SettingsError("This key was revoked: log in with another one.")
        service.access.charge(Caller(key), count)
        return lambda left: service.access.refund(Caller(key), left)

    routes = APIRouter(prefix=PREFIX, include_in_schema=False)
    for name in SCRIPTS:
        routes.add_api_route(f"/{name}", _script(name), methods=["GET"])
    routes.include_router(walk_routes(service, worlds, Tenancy(owner=lambda _: OWNER, charge=charge)))
    return routes


def _script(name: str) -> Callable[[], Response]:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")

    def script() -> Response:
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    return script
