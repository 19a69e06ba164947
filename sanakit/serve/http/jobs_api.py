"""Jobs: requests that are accepted now, drawn later, and survive a restart of the server.

A job's images are PNG files of the image store; replies tell their addresses. A job belongs to the key
that made it: to all others it does not exist.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import Field

from sanakit.errors import BusyError, ClosedError, OutputError, SettingsError, StorageError
from sanakit.images.image import encode
from sanakit.pipelines.request import Request as Drawn
from sanakit.serve.engine.steering import NamedControl
from sanakit.serve.http.access import Caller, caller_of
from sanakit.serve.http.answers import EDIT_BODY, EXAMPLES, answers
from sanakit.serve.http.failures import Failure, FailureError, detail_of
from sanakit.serve.http.openai_schema import (
    WARNINGS,
    DrawingSettings,
    ErrorDetail,
    GenerationRequest,
    ImageReply,
    Reply,
)
from sanakit.serve.http.service import Service, address, note_prompt
from sanakit.serve.http.uploads import check_generation, read_edit
from sanakit.serve.jobs.job import CANCELLED, FINISHED, QUEUED, UPSCALE, VIDEO, Job, new_job_id

MAX_LISTED = 100
NameInput = Callable[[str, Image.Image], str]  # what an input image is, the image -> its name in the store
_BAND = 256  # rows


class JobReply(Reply):
    """The current state of a job."""

    id: str
    object: Literal["job"] = "job"
    kind: Literal["generation", "edit"]
    status: Literal["queued", "running", "finished", "failed", "cancelled"]
    created: int = Field(description="Seconds since 1970, like the next two.")
    started: int | None
    ended: int | None
    request: dict[str, Any] = Field(description="The settings of the images, including the seed.")
    data: list[ImageReply] = Field(description="The images, once the job is finished.")
    warnings: list[str] = WARNINGS
    error: ErrorDetail | None


class JobList(Reply):
    """The newest jobs first."""

    object: Literal["list"] = "list"
    data: list[JobReply]
    has_more: bool = Field(description="Whether older jobs exist: request them with before = the last id.")


Idempotency = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Chosen by the client: repeating a request with it returns the same job.",
    ),
]
JobId = Annotated[str, Field(max_length=100)]
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}}}
}


def jobs_api(service: Service) -> APIRouter:
    """Return the routes of jobs."""
    routes = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    accepting = {
        "status_code": 202,
        "response_model": JobReply,
        "responses": _ACCEPTED | answers(404, 409, 500, 503),
    }

    @routes.post("", **accepting)
    async def add(
        client: Request,
        body: Annotated[GenerationRequest, Body(openapi_examples=EXAMPLES)],
        idempotency_key: Idempotency = None,
    ) -> Any:
        """Accept a request for images, to be drawn later."""
        _check_body(body)
        drawn, controls = await check_generation(service, body)
        return await _add(service, client, "generation", drawn, body, {}, controls, idempotency_key)

    @routes.post("/edits", openapi_extra=EDIT_BODY, **accepting)
    async def add_edit(client: Request, idempotency_key: Idempotency = None) -> Any:
        """Accept a request to redraw an image, to be done later."""
        body, drawn, sources, controls = await read_edit(service, client)
        _check_body(body)
        return await _add(service, client, "edit", drawn, body, sources, controls, idempotency_key)

    @routes.get("", response_model=JobList, responses=answers(500, 503))
    async def listed(
        client: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 20,
        before: Annotated[str | None, Query(max_length=100, description="An id: only older jobs.")] = None,
    ) -> Any:
        """Return the jobs of this key, the newest first."""
        key_id = caller_of(client).key_id

        def written() -> str:  # job by job: a hundred of them may hold megabytes of prompts
            jobs = service.jobs.list(key_id, limit + 1, before)
            replies = ",".join(_reply(job, client).model_dump_json() for job in jobs[:limit])
            more = str(len(jobs) > limit).lower()
            return f'{{"object":"list","data":[{replies}],"has_more":{more}}}'

        return Response(await asyncio.to_thread(written), media_type="application/json")

    @routes.get("/{job_id}", response_model=JobReply, responses=answers(404, 500, 503))
    async def get(client: Request, job_id: JobId) -> Any:
        """Return a job as it stands."""
        return _reply(await _find(service, caller_of(client), job_id), client)

    @routes.delete("/{job_id}", response_model=JobReply, responses=answers(404, 409, 500, 503))
    async def cancel(client: Request, job_id: JobId) -> Any:
        """Cancel a job that waits or runs; one that is being drawn stops within a few steps."""
        caller = caller_of(client)
        cancelled = await asyncio.to_thread(service.jobs.cancel, job_id, caller.key_id)
        service.wake()
        job = await _find(service, caller, job_id)
        if not cancelled and job.status != CANCELLED:
            message = f"The job is {job.status}: only waiting or running jobs can be cancelled."
            raise FailureError(Failure(status=409, message=message, code="job_ended"))
        return _reply(job, client)

    return routes


def _check_body(body: DrawingSettings) -> None:
    """Raise SettingsError for fields that only mean something while the client waits."""
    if body.stream or body.partial_images:
        raise SettingsError("A job is not streamed: poll its address, or use /v1/images.")
    if body.response_format == "b64_json" or body.output_format not in (None, "png"):
        raise SettingsError('A job\'s images are PNG files with URLs: omit the formats, or use "url".')
    if body.deadline is not None:
        raise SettingsError(
            "A job waits for its turn and has no deadline: cancel it when it is no longer needed."
        )


async def _add(
    service: Service,
    client: Request,
    kind: str,
    drawn: Drawn,
    body: DrawingSettings,
    sources: dict[str, Image.Image],
    controls: list[NamedControl],
    idempotency_key: str | None,
) -> Response:
    """Accept a job of images, and answer with it."""
    note_prompt(service, client, body.prompt, body.negative_prompt)
    settings = _arguments(drawn, body, kind)
    offered = service.engine.residence.controls[drawn.model]
    steering = [one | {"kind": one.get("kind") or offered[one["name"]].hint} for one in controls]

    def arguments(named: NameInput) -> dict[str, Any]:
        settings.update({what: named(what, image) for what, image in sources.items()})
        if steering:
            settings["control"] = [
                one | {"image": named("control", shown["image"])}
                for one, shown in zip(steering, controls, strict=True)
            ]
        return settings

    job = await accept(
        service,
        client,
        kind,
        arguments,
        drawn.num_images,
        seeded=body.seed is not None,
        decodes=bool(sources or controls),
        idempotency_key=idempotency_key,
    )
    headers = {"Location": address(client, "get", job_id=job.id)}
    return JSONResponse(_reply(job, client).model_dump(), 202, headers)


async def accept(
    service: Service,
    client: Request,
    kind: str,
    arguments: Callable[[NameInput], dict[str, Any]],
    num_images: int,
    *,
    seeded: bool,
    decodes: bool,
    idempotency_key: str | None,
) -> Job:
    """Store a job, or find the one that the same Idempotency-Key made before; wake the runner.

    arguments: the job's body; is handed what stores an input image and returns its name. seeded: the caller
    said the seed. decodes: there are input images. Raises FailureError, ClosedError, BusyError, StorageError.
    """
    caller = caller_of(client)

    def accepted() -> Job:
        job_id = _derived_id(service, caller, idempotency_key, kind) if idempotency_key else new_job_id()
        files: dict[str, Image.Image] = {}

        def named(what: str, image: Image.Image) -> str:  # by content: no upload replaces a job's own
            name = f"{job_id}-{what}-{_digest(image)[:32]}.png"
            files[name] = image
            return name

        settings, video = arguments(named), kind == VIDEO
        if idempotency_key and (before := service.jobs.get(job_id, caller.key_id, video=video)):
            return _same(before, settings, seeded=seeded)
        if service.draining.is_set():
            raise ClosedError("The server is stopping: try again when it is back.")
        if service.jobs.counts()[QUEUED] >= service.settings.max_jobs:
            raise BusyError(f"{service.settings.max_jobs} jobs are already waiting: try again later.")
        service.access.charge(caller, num_images)
        try:
            for name, image in files.items():
                with service.engine.decoding.turn(image.width * image.height):
                    file = encode(image, "PNG")
                service.store.put(name, file)
            return service.jobs.add(kind, settings, caller.key_id, num_images, job_id=job_id)
        except (OutputError, StorageError):
            service.access.refund(caller, num_images)
            twin = service.jobs.get(job_id, caller.key_id, video=video)  # it may have been faster
            for name in files:
                if name not in twin.input_names() if twin else not idempotency_key:
                    service.store.delete(name)
            if twin:
                return _same(twin, settings, seeded=seeded)
            raise

    job = await (service.decode(accepted) if decodes else asyncio.to_thread(accepted))
    service.wake()
    return job


def _arguments(drawn: Drawn, body: DrawingSettings, kind: str) -> dict[str, Any]:
    """Return the arguments of `Engine.check` as JSON, complete: a later server must draw the same."""
    first = drawn.metadata[0]
    # An edit without a size is drawn near the model's own and scaled back; with one it is drawn in it.
    width, height = body.sides if kind == "edit" else (drawn.size[1], drawn.size[0])
    settings: dict[str, Any] = {
        "model": drawn.model,
        "prompt": body.prompt,
        "negative_prompt": first["negative_prompt"],
        "width": width,
        "height": height,
        "steps": first["steps"],
        "guidance": drawn.guidance,
        "seed": drawn.seeds[0],
        "num_images": drawn.num_images,
        "solver": first["solver"],
    }
    settings |= {name: first[name] for name in ("guidance_kind", "prompt_weights") if name in first}
    settings |= {"adapters": body.adapters} if body.adapters else {}
    settings |= {UPSCALE: body.upscale} if body.upscale is not None else {}
    return settings | ({"strength": first["strength"]} if kind == "edit" else {})


def _digest(image: Image.Image) -> str:
    """Return a hash of an image's size and pixels, taken in bands so that they are never copied at once."""
    found = hashlib.sha256(repr(image.size).encode())
    for top in range(0, image.height, _BAND):
        found.update(image.crop((0, top, image.width, min(top + _BAND, image.height))).tobytes())
    return found.hexdigest()


def _derived_id(service: Service, caller: Caller, idempotency_key: str, kind: str) -> str:
    """Return the job id of a caller's Idempotency-Key; only servers of this database can compute it.

    A key of a video is never that of a job of images.
    """
    secret, named = service.jobs.database.secret, f"{caller.key_id or 'local'} {idempotency_key}"
    named = f"{VIDEO} {named}" if kind == VIDEO else named
    return f"job_{hmac.new(secret.encode(), named.encode(), hashlib.sha256).hexdigest()[:32]}"


def _same(job: Job, settings: dict[str, Any], *, seeded: bool) -> Job:
    """Return the earlier job if it asked for the same. Raises FailureError (409)."""
    keys = (settings.keys() | job.body.keys()) - (set() if seeded else {"seed"})
    if any(settings.get(key) != job.body.get(key) for key in keys):
        message = "This Idempotency-Key was used for another request: use a new one."
        raise FailureError(Failure(status=409, message=message, code="idempotency_key_reused"))
    return job


async def _find(service: Service, caller: Caller, job_id: str) -> Job:
    job = await asyncio.to_thread(service.jobs.get, job_id, caller.key_id)
    if job is None:
        raise FailureError(
            Failure(
                status=404, message="There is no such job: GET /v1/jobs lists yours.", code="job_not_found"
            )
        )
    return job


def _reply(job: Job, client: Request) -> JobReply:
    data, error = [], None
    warnings: dict[str, None] = {}  # a set in the order they came
    if job.status == FINISHED:
        for file in job.files:
            warnings |= dict.fromkeys(file.get("warnings", ()))  # most have none
            url = address(client, "picture", name=file["name"])
            data.append(ImageReply(url=url, metadata=file["metadata"]))
    if job.error_message is not None:
        error = detail_of(job.error_message, job.error_type or "")
    return JobReply(
        id=job.id,
        kind=job.kind,  # pyright: ignore[reportArgumentType]
        status=job.status,  # pyright: ignore[reportArgumentType]
        created=_seconds(job.created) or 0,
        started=_seconds(job.started),
        ended=_seconds(job.ended),
        request=job.body,
        data=data,
        warnings=list(warnings),
        error=error,
    )


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())
