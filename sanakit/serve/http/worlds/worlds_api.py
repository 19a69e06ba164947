"""POST /v1/worlds and what becomes of it: a walk through a world, move by move, as streams of frames.

A walk belongs to the key that entered it, and lives in this process: it ends with DELETE, with the server, or
when nobody has used it for a while. The page has the same routes under another prefix (`serve/web/world/`).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import StreamingResponse
from PIL import Image
from pydantic import Field

from sanakit.clips.writing import writing
from sanakit.errors import ClosedError, SanaError, StoppedError
from sanakit.serve.engine.ticket import Failed, Finished
from sanakit.serve.engine.walk import Walk
from sanakit.serve.engine.world_engine import WalkRequest, WorldEngine
from sanakit.serve.http.access import caller_of
from sanakit.serve.http.answers import WALK_BODY, answers, move_answer
from sanakit.serve.http.failures import Failure, FailureError
from sanakit.serve.http.service import Service, note_prompt
from sanakit.serve.http.videos.content import content
from sanakit.serve.http.worlds.moving import (
    HEADERS,
    Move,
    count_filtered,
    explained,
    replay,
    stream,
    take_turn,
)
from sanakit.serve.http.worlds.reading import read_walk
from sanakit.serve.http.worlds.schema import (
    MomentList,
    MomentReply,
    MoveRequest,
    WalkDeleted,
    WalkList,
    WalkReply,
)
from sanakit.serve.jobs.clip_files import MEDIA_TYPES, check_format, usual_format

PREFIX = "/v1/worlds"
WalkId = Annotated[str, Field(max_length=100)]
MomentNumber = Annotated[int | None, Query(alias="moment", ge=0, description="Left out: the last drawn.")]
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_FILES: dict[str, Any] = {kind: _BINARY for kind in MEDIA_TYPES.values()}
_CLIP: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": _FILES},
    206: {"description": "The requested range of it.", "content": _FILES},
}
_FRAME: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image.", "content": {"image/jpeg": _BINARY, "image/png": _BINARY}}
}
_PATH: dict[int | str, dict[str, Any]] = {
    200: {"description": "width, height, intrinsics and poses.", "content": {"application/json": {}}}
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenancy:
    """Whose walks these are, and who pays for what is drawn.

    owner: of the walks that a request may see. charge: for so many chunks of a walk; raises FailureError,
    blocks, and returns what takes some of it back.
    """

    owner: Callable[[Request], str | None]
    charge: Callable[[Request, Walk | None, int], Callable[[int], None]]


def tenancy_of_keys(service: Service) -> Tenancy:
    """Return that of the API: a walk is its key's, which pays for it."""

    def charge(client: Request, walk: Walk | None, count: int) -> Callable[[int], None]:
        caller = caller_of(client)
        service.access.charge(caller, count)
        return lambda left: service.access.refund(caller, left)

    return Tenancy(owner=lambda client: caller_of(client).key_id, charge=charge)


def worlds_api(service: Service, worlds: WorldEngine) -> APIRouter:
    """Return the routes of the API: to enter and list walks, and those of one walk."""
    tenancy = tenancy_of_keys(service)
    routes = APIRouter(prefix=PREFIX, tags=["worlds"])

    @routes.post(
        "",
        status_code=201,
        response_model=WalkReply,
        openapi_extra=WALK_BODY,
        responses=answers(404, 500, 503),
    )
    async def enter(client: Request) -> Any:
        """Enter a world: the image is its first frame, and counts as one of the key's images."""
        asked, checked = await read_walk(service, worlds, client)
        note_prompt(service, client, asked.prompt, asked.negative_prompt)
        check_open(service)
        refund = await asyncio.to_thread(tenancy.charge, client, None, 1)
        try:
            return WalkReply.of(await entered(worlds, checked, tenancy.owner(client)))
        except SanaError as error:
            count_filtered(service, error)
            await asyncio.to_thread(refund, 1)
            raise

    @routes.get("", response_model=WalkList, responses=answers(500, 503))
    async def listed(client: Request) -> Any:
        """Return the walks of this key."""
        return WalkList(data=[WalkReply.of(walk) for walk in worlds.walks(tenancy.owner(client))])

    routes.include_router(walk_routes(service, worlds, tenancy))
    return routes


def walk_routes(service: Service, worlds: WorldEngine, tenancy: Tenancy) -> APIRouter:
    """Return the routes of one walk, below the address that lists them."""
    routes = APIRouter()

    def find(client: Request, walk_id: str) -> Walk:
        walk = worlds.find(walk_id, tenancy.owner(client))
        if walk is None:
            minutes = worlds.idle / 60
            message = (
                f"There is no such walk: one that nobody uses for {minutes:g} minutes ends. Enter again."
            )
            raise FailureError(Failure(status=404, message=message, code="walk_not_found"))
        return walk

    @routes.get("/{walk_id}", response_model=WalkReply, responses=answers(404, 500, 503))
    async def get(client: Request, walk_id: WalkId) -> Any:
        """Return a walk as it stands."""
        return WalkReply.of(find(client, walk_id))

    @routes.get("/{walk_id}/moments", response_model=MomentList, responses=answers(404, 500, 503))
    async def moments(client: Request, walk_id: WalkId) -> Any:
        """Return all moments of a walk."""
        return MomentList(data=[MomentReply.of(moment) for moment in find(client, walk_id).moments])

    @routes.post(
        "/{walk_id}/moves",
        response_class=StreamingResponse,
        responses=move_answer() | answers(404, 409, 500, 503),
    )
    async def move(client: Request, walk_id: WalkId, body: Annotated[MoveRequest, Body()]) -> Response:
        """Walk on from a moment; each frame is sent as soon as its chunk is drawn."""
        walk = find(client, walk_id)
        check_open(service)
        take_turn(walk)
        try:
            before = walk.at if body.before is None else body.before
            chunks = walk.split(before, body.move(walk.chunk_frames), body.seed)
            refund = await asyncio.to_thread(tenancy.charge, client, walk, len(chunks))
        except BaseException:
            walk.turn.release()
            raise
        last_only = body.frames == "last"
        return await stream(
            service, client, Move(worlds, walk, chunks, before, last_only=last_only, refund=refund)
        )

    @routes.get(
        "/{walk_id}/frames",
        response_class=StreamingResponse,
        responses=move_answer() | answers(404, 500, 503),
    )
    async def frames(client: Request, walk_id: WalkId, moment: MomentNumber = None) -> Response:
        """Replay a walk: send the frames from the image to a moment as they were recorded."""
        walk = find(client, walk_id)
        number = walk.check(walk.at if moment is None else moment).number
        events = explained(service, client, replay(walk, number))
        return StreamingResponse(events, headers=HEADERS, media_type="text/event-stream")

    @routes.get(
        "/{walk_id}/moments/{moment}/frame",
        response_class=Response,
        responses=_FRAME | answers(404, 500, 503),
    )
    async def frame(client: Request, walk_id: WalkId, moment: int) -> Response:
        """Return the last frame of a moment."""
        walk = find(client, walk_id)
        walk.check(moment)
        data = await asyncio.to_thread(walk.recording.read, walk.recorded(moment)[-1])
        return Response(data, media_type=f"image/{walk.image_format.lower()}")

    @routes.get("/{walk_id}/path", response_class=Response, responses=_PATH | answers(404, 500, 503))
    async def path(client: Request, walk_id: WalkId, moment: MomentNumber = None) -> Response:
        """Return the camera of every frame to a moment, as `sana world --camera` reads it."""
        walk = find(client, walk_id)
        text = walk.path(walk.at if moment is None else moment).text()
        return Response(text, headers=_saved_as("path.json"), media_type="application/json")

    @routes.get("/{walk_id}/clip", response_class=Response, responses=_CLIP | answers(404, 416, 500, 503))
    async def clip(client: Request, walk_id: WalkId, moment: MomentNumber = None) -> Response:
        """Return the frames from the image to a moment as a clip, with the settings it was drawn with."""
        walk = find(client, walk_id)
        number = walk.check(walk.at if moment is None else moment).number
        format = usual_format()
        data = await service.decode(lambda: clip_of(walk, number, format))
        answer = content(data, MEDIA_TYPES[format], client.headers)
        answer.headers.update(_saved_as(f"walk.{format}"))
        answer.headers["Cache-Control"] = "no-store"  # the walk goes on
        return answer

    @routes.delete("/{walk_id}", response_model=WalkDeleted, responses=answers(404, 500, 503))
    async def delete(client: Request, walk_id: WalkId) -> Any:
        """End a walk, and delete its frames; a chunk that is being drawn is the last."""
        worlds.end(find(client, walk_id))
        return WalkDeleted(id=walk_id)

    return routes


async def entered(worlds: WorldEngine, checked: WalkRequest, owner: str | None) -> Walk:
    """Wait for a walk. If the waiting is cancelled, so is the walk. Raises what entering raises."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Walk] = loop.create_future()

    def settle(event: Any) -> None:
        if found.done():
            return
        if isinstance(event, Failed):
            found.set_exception(event.error)
        elif isinstance(event, Finished):
            found.set_result(event.result)

    ticket = worlds.enter(checked, owner, lambda event: loop.call_soon_threadsafe(settle, event) and None)
    try:
        return await found
    except asyncio.CancelledError:
        ticket.cancel()
        raise StoppedError("The client has left.") from None


def check_open(service: Service) -> None:
    """Raise ClosedError if the server is stopping."""
    if service.draining.is_set():
        raise ClosedError("The server is stopping: try again when it is back.")


def clip_of(walk: Walk, moment: int, format: str) -> bytes:
    """Return a walk to a moment as the file of a clip; blocks.

    Raises SettingsError, SizeError, OutputError.
    """
    numbers = walk.recorded(moment)
    way = walk.actions(moment) or f"{len(numbers)} poses"
    settings = {**walk.metadata, "path": way, "frames": len(numbers)}
    check_format(format, width=walk.width, height=walk.height, rate=walk.rate, settings=settings)
    with TemporaryDirectory(prefix="sana-clip-") as folder:
        file = Path(folder) / f"clip.{format}"
        with writing(file, width=walk.width, height=walk.height, rate=walk.rate, settings=settings) as writer:
            for number in numbers:
                with Image.open(io.BytesIO(walk.recording.read(number))) as image:
                    writer.add(np.asarray(image.convert("RGB")))
        return file.read_bytes()


def _saved_as(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
