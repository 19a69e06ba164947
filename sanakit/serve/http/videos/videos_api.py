"""POST /v1/videos and what becomes of them: jobs that make a clip, as OpenAI's clients ask for videos.

A video is accepted at once, drawn when its turn comes, and survives a restart of the server. It belongs to
the key that asked for it: to all others it does not exist.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from sanakit.pipelines.video.request import ClipRequest
from sanakit.serve.engine.clip_engine import counted_images, model_of
from sanakit.serve.http.access import caller_of
from sanakit.serve.http.answers import VIDEO_BODY, answers
from sanakit.serve.http.failures import Failure, FailureError, detail_of
from sanakit.serve.http.jobs_api import MAX_LISTED, Idempotency, NameInput, accept
from sanakit.serve.http.openai_schema import ErrorDetail
from sanakit.serve.http.service import Service, note_prompt
from sanakit.serve.http.videos.content import content
from sanakit.serve.http.videos.reading import read_video
from sanakit.serve.http.videos.schema import VideoDeleted, VideoList, VideoReply
from sanakit.serve.jobs.clip_files import MEDIA_TYPES, check_format, usual_format
from sanakit.serve.jobs.job import (
    CANCELLED,
    FAILED,
    FINISHED,
    FORMAT,
    QUEUED,
    RUNNING,
    TOLD,
    VIDEO,
    Job,
)

VideoId = Annotated[str, Field(max_length=100)]
_STATUS: dict[str, Any] = {
    **{QUEUED: "queued", RUNNING: "in_progress", FINISHED: "completed"},
    **{FAILED: "failed", CANCELLED: "failed"},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE = {"content": {kind: _BINARY for kind in MEDIA_TYPES.values()}}
_FOUND: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file."} | _FILE,
    206: {"description": "The requested range of it."} | _FILE,
}


def videos_api(service: Service) -> APIRouter:
    """Return the routes of videos."""
    routes = APIRouter(prefix="/v1/videos", tags=["videos"])

    @routes.post(
        "", response_model=VideoReply, openapi_extra=VIDEO_BODY, responses=answers(404, 409, 500, 503)
    )
    async def create(client: Request, idempotency_key: Idempotency = None) -> Any:
        """Accept a request for a clip, to be drawn when its turn comes."""
        asked, drawn, image = await read_video(service, client)
        note_prompt(service, client, asked.prompt, asked.negative_prompt)
        settings = _arguments(drawn)

        def arguments(named: NameInput) -> dict[str, Any]:
            return settings | ({} if image is None else {"image": named("image", image)})

        job = await accept(
            service,
            client,
            VIDEO,
            arguments,
            counted_images(drawn),
            seeded=asked.seed is not None,
            decodes=image is not None,
            idempotency_key=idempotency_key,
        )
        return _reply(job)

    @routes.get("", response_model=VideoList, responses=answers(500, 503))
    async def listed(
        client: Request,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 20,
        after: Annotated[str | None, Query(max_length=100, description="An id: only what follows.")] = None,
        order: Annotated[Literal["asc", "desc"], Query(description="By the time of acceptance.")] = "desc",
    ) -> Any:
        """Return the videos of this key, the newest first."""
        key_id, oldest_first = caller_of(client).key_id, order == "asc"

        def written() -> str:  # in this thread: a hundred of them may hold megabytes of prompts
            jobs = service.jobs.list(key_id, limit + 1, after, video=True, oldest_first=oldest_first)
            shown = [_reply(job) for job in jobs[:limit]]
            first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
            found = VideoList(data=shown, first_id=first, last_id=last, has_more=len(jobs) > limit)
            return found.model_dump_json()

        return Response(await asyncio.to_thread(written), media_type="application/json")

    @routes.get("/{video_id}", response_model=VideoReply, responses=answers(404, 500, 503))
    async def get(client: Request, video_id: VideoId) -> Any:
        """Return a video as it stands."""
        return _reply(await _find(service, client, video_id))

    @routes.get(
        "/{video_id}/content", response_class=Response, responses=_FOUND | answers(404, 409, 416, 500, 503)
    )
    async def download(
        client: Request,
        video_id: VideoId,
        variant: Annotated[
            Literal["video"], Query(description="Neither thumbnails nor sheets are made.")
        ] = "video",
    ) -> Response:
        """Return the file of a completed video, or a range of it."""
        job = await _find(service, client, video_id)
        if job.status != FINISHED:
            raise FailureError(_not_there(job))
        (name,) = job.result_names()
        try:
            data = await asyncio.to_thread(service.store.get, name)
        except LookupError:
            message = "The file of this video is no longer stored: ask for it again."
            raise FailureError(Failure(status=404, message=message, code="video_not_found")) from None
        return content(data, MEDIA_TYPES[job.body[FORMAT]], client.headers)

    @routes.delete("/{video_id}", response_model=VideoDeleted, responses=answers(404, 500, 503))
    async def delete(client: Request, video_id: VideoId) -> Any:
        """Delete a video and its files for good; one that is being drawn stops within a step."""

        def delete_files(job_id: str) -> None:
            for name in service.store.names(f"{job_id}-"):
                service.store.delete(name)

        key_id = caller_of(client).key_id
        deleted = await asyncio.to_thread(service.jobs.delete, video_id, key_id, delete_files)
        service.wake()
        if not deleted:
            raise FailureError(_none())
        return VideoDeleted(id=video_id)

    return routes


def _arguments(drawn: ClipRequest) -> dict[str, Any]:
    """Return the body of a job: the arguments of `ClipEngine.check`, complete, for a later server to draw.

    Raises SettingsError, SizeError for a clip that the format of files here cannot hold.
    """
    first, (height, width) = drawn.metadata[0], drawn.sampling.size
    settings: dict[str, Any] = {
        "model": model_of(drawn),
        "prompt": first["prompt"],
        "negative_prompt": first["negative_prompt"],
        "frames": drawn.frames,
        "rate": str(drawn.rate),
        "width": width,
        "height": height,
        "motion": first["motion"],
        "steps": first["steps"],
        "guidance": drawn.sampling.guidance,
        "seed": drawn.sampling.seeds[0],
        "solver": first["solver"],
        "dialect": drawn.sampling.dialect,
    }
    if "guidance_kind" in first:
        settings["guidance_kind"] = first["guidance_kind"]
    if "prompt_weights" in first:
        settings["prompt_weights"] = bool(first["prompt_weights"])
    format = usual_format()
    check_format(format, width=width, height=height, rate=drawn.rate, settings=first)
    return settings | {FORMAT: format, TOLD: list(drawn.sampling.notes)}


async def _find(service: Service, client: Request, video_id: str) -> Job:
    key_id = caller_of(client).key_id
    job = await asyncio.to_thread(lambda: service.jobs.get(video_id, key_id, video=True))
    if job is None:
        raise FailureError(_none())
    return job


def _none() -> Failure:
    return Failure(
        status=404, message="There is no such video: GET /v1/videos lists yours.", code="video_not_found"
    )


def _not_there(job: Job) -> Failure:
    status = _STATUS[job.status]
    if status == "failed":
        error = _error(job)
        message = f"The video failed, and has no file: {error.message if error else 'it was cancelled.'}"
        return Failure(status=409, message=message, code="video_failed")
    message = f"The video is {status}: ask for its state until it is completed."
    return Failure(status=409, message=message, code="video_not_ready")


def _error(job: Job) -> ErrorDetail | None:
    return None if job.error_message is None else detail_of(job.error_message, job.error_type or "")


def _reply(job: Job) -> VideoReply:
    body = job.body  # empty for a damaged row, whose error says so
    rate, frames = Fraction(body.get("rate", 1)), body.get("frames", 1)
    warnings = [*body.get(TOLD, ())]
    for file in job.files:
        warnings += [note for note in file.get("warnings", ()) if note not in warnings]
    return VideoReply(
        id=job.id,
        model=body.get("model", ""),
        status=_STATUS[job.status],
        progress=100 if job.status == FINISHED else 0 if job.status == QUEUED else job.progress,
        created_at=_seconds(job.created) or 0,
        completed_at=_seconds(job.ended) if job.status == FINISHED else None,
        prompt=body.get("prompt", ""),
        seconds=f"{float((frames - 1) / rate):.6g}",
        size=f"{body.get('width', 0)}x{body.get('height', 0)}",
        error=_error(job),
        frames=frames,
        fps=float(rate),
        format=body.get(FORMAT, ""),
        request={name: value for name, value in body.items() if name not in (FORMAT, TOLD)},
        warnings=warnings,
    )


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())
