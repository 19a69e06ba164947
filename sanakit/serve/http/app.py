"""The whole HTTP application around an engine: from the outermost layer to the routes.

A request passes the outer layer (id, log, figures, headers), CORS where origins are allowed, guard (keys),
body limit, and reaches a route of images_api, jobs_api, videos_api, worlds_api, stored_images_api or one of
the few below. Nothing draws here. FastAPI's pages of documentation fetch scripts from other machines and are
off; /docs is a page of our own, and /openapi.json is there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Literal

from fastapi import Depends, FastAPI, Response
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware

from sanakit import __version__
from sanakit.errors import ClosedError, ModelNotFoundError
from sanakit.pipelines.video.request import VideoSpec
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.world_engine import WorldEngine
from sanakit.serve.http.access import Access, AccessGuard, bearer
from sanakit.serve.http.answers import answers, finish_schema
from sanakit.serve.http.docs.page import add_docs
from sanakit.serve.http.door import BodyLimit, HeadRequests, OuterLayer
from sanakit.serve.http.failures import install
from sanakit.serve.http.images_api import images_api
from sanakit.serve.http.jobs_api import jobs_api
from sanakit.serve.http.metrics import CONTENT_TYPE, Metrics
from sanakit.serve.http.openai_schema import ModelList, ModelReply, StateReply
from sanakit.serve.http.service import HttpSettings, Service
from sanakit.serve.http.stored_images_api import stored_images_api
from sanakit.serve.http.videos.videos_api import videos_api
from sanakit.serve.http.worlds.worlds_api import worlds_api
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.keys import KeyStore
from sanakit.serve.jobs.storage import ImageStore
from sanakit.weights.settings import ModelSettings


def create_app(
    engine: Engine,
    *,
    jobs: JobStore,
    store: ImageStore,
    keys: KeyStore,
    clips: ClipEngine | None = None,
    worlds: WorldEngine | None = None,
    settings: HttpSettings | None = None,
    draining: threading.Event | None = None,
    wake: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Build the application around a started engine; the caller starts and stops the parts.

    clips, worlds: the engines of videos and of walks, if there are any. draining: set it when the server is
    to stop; /ready then says so. wake: `JobRunner.wake`.
    `app.state.service` holds the parts, for what is mounted beside the API.
    """
    settings = settings or HttpSettings()
    service = Service(
        engine=engine,
        jobs=jobs,
        store=store,
        access=Access(keys, no_auth=settings.no_auth, local=settings.local),
        metrics=Metrics(
            engine.stats, jobs.counts, clips.stats if clips else None, worlds.stats if worlds else None
        ),
        settings=settings,
        draining=draining or threading.Event(),
        wake=wake,
        clips=clips,
        worlds=worlds,
    )
    app = FastAPI(
        title="sanakit",
        summary="Images and videos from prompts, compatible with OpenAI's clients.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=_layers(service),
    )
    app.state.service = service
    install(app, detailed=settings.log_prompts)
    keyed = [Depends(bearer)]  # in the schema; the guard in front has let in or refused already
    app.include_router(images_api(service), dependencies=keyed)
    app.include_router(jobs_api(service), dependencies=keyed)
    app.include_router(videos_api(service), dependencies=keyed)
    if worlds is not None:
        app.include_router(worlds_api(service, worlds), dependencies=keyed)
    app.include_router(stored_images_api(service))
    _add_models(app, service, keyed)
    _add_watch(app, service)
    add_docs(app, videos=clips is not None)
    finish_schema(app, settings.max_steps, settings.max_frames)
    return app


def _layers(service: Service) -> list[Middleware]:
    """Return the layers that a request passes before its route, from the outside in."""
    settings, detailed = service.settings, service.settings.log_prompts
    layers = [Middleware(OuterLayer, service.metrics, json_log=settings.json_log, detailed=detailed)]
    if settings.origins:
        exposed = ["X-Request-Id", "X-Should-Retry", "Retry-After", "Location"]
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
            expose_headers=exposed,
        )
        layers.append(cors)
    layers += [
        Middleware(HeadRequests),
        Middleware(AccessGuard, service.access, settings.origins, detailed=detailed),
        Middleware(BodyLimit, settings.body_limit),
    ]
    return layers


def _add_models(app: FastAPI, service: Service, keyed: list[Any]) -> None:
    def clip_card(spec: VideoSpec, makes: Literal["videos", "worlds"]) -> ModelReply:
        own, rate = spec.settings.shared, spec.settings.rate
        return ModelReply(
            id=own.name,
            created=service.started,
            makes=makes,
            defaults=_defaults(own) | {"frames": spec.settings.frames, "fps": float(rate)},
            adapters=[],
            controls={},
        )

    def card(name: str) -> ModelReply:
        if service.clips is not None and name in service.clips.specs:
            return clip_card(service.clips.specs[name], "videos")
        if service.worlds is not None and name == service.worlds.name:
            return clip_card(service.worlds.spec, "worlds")
        own = service.engine.specs[name].settings
        pool = service.engine.residence
        return ModelReply(
            id=name,
            created=service.started,
            makes="images",
            defaults=_defaults(own),
            adapters=list(pool.adapters[name]),
            controls={control: file.hint for control, file in pool.controls[name].items()},
        )

    @app.get("/v1/models", tags=["models"], dependencies=keyed, responses=answers(500, 503))
    async def models() -> ModelList:
        """List the models, the default one first."""
        return ModelList(data=[card(name) for name in service.models])

    # A name of the Hub has a slash.
    @app.get("/v1/models/{model:path}", tags=["models"], dependencies=keyed, responses=answers(404, 500, 503))
    async def model(model: str) -> ModelReply:
        """Describe one model."""
        if model not in service.models:
            names = ", ".join(service.models)
            raise ModelNotFoundError(f"There is no model {model[:100]!r} here; there are: {names}.")
        return card(model)


def _defaults(own: ModelSettings) -> dict[str, Any]:
    size = f"{own.width}x{own.height}"
    return {"size": size, "steps": own.steps, "guidance": own.guidance, "solver": own.solver}


def _add_watch(app: FastAPI, service: Service) -> None:
    """Routes for those who watch the server; they need no key and tell nothing of what is drawn."""

    @app.get("/health", tags=["watch"])
    async def health() -> StateReply:
        """Tell that the process answers."""
        return StateReply()

    @app.get("/ready", tags=["watch"], responses={503: answers(503)[503]})
    async def ready() -> StateReply:
        """Tell whether requests are welcome: the model is loaded, the database answers, no stop."""
        if service.draining.is_set():
            raise ClosedError("The server is stopping.")
        engines = (service.engine, service.clips, service.worlds)
        if not all(engine.alive for engine in engines if engine is not None):
            raise ClosedError("The engine is not running.")
        await asyncio.to_thread(service.jobs.ping)
        return StateReply()

    if service.settings.metrics:
        plain: dict[int | str, dict[str, Any]] = {
            200: {"description": "All figures.", "content": {"text/plain": {"schema": {"type": "string"}}}}
        }

        @app.get("/metrics", tags=["watch"], response_class=Response, responses=plain)
        async def metrics() -> Response:
            """Return figures in Prometheus' text format."""
            text = await asyncio.to_thread(service.metrics.text)
            return Response(text, headers={"Content-Type": CONTENT_TYPE})
