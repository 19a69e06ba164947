"""GET /v1/pictures/{name}: images that were requested by URL, and those of jobs.

A name holds 128 random bits and is all the right it takes, so that a page can show the image. Other files
of the store, such as what was uploaded for an edit, have no address here.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import Response

from sanakit.serve.http.answers import answers
from sanakit.serve.http.failures import Failure, FailureError
from sanakit.serve.http.service import Service

_PATTERN = r"(job_[0-9a-f]{32}-[0-9]{1,3}|image_[0-9]{8}_[0-9a-f]{32})\.(png|jpeg|webp)"
_DATED = re.compile(r"image_(\d{8})_")


def new_name(suffix: str) -> str:
    """Return an unguessable name for an image without a job; it begins with today's date.

    suffix: png, jpeg or webp.
    """
    return f"image_{datetime.now(UTC):%Y%m%d}_{secrets.token_hex(16)}.{suffix}"


def made_before(name: str, time: datetime) -> bool:
    """Return whether a name belongs to an image without a job and to a day before a time."""
    return (dated := _DATED.match(name)) is not None and dated[1] < f"{time:%Y%m%d}"


def stored_images_api(service: Service) -> APIRouter:
    """Return the route of images."""
    routes = APIRouter(prefix="/v1/pictures", tags=["images"])
    binary = {"schema": {"type": "string", "format": "binary"}}
    found: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The file.",
            "content": dict.fromkeys(("image/png", "image/jpeg", "image/webp"), binary),
        }
    }

    @routes.get("/{name}", response_class=Response, responses=found | answers(404, 500, 503))
    async def picture(name: Annotated[str, Path(max_length=128)]) -> Response:
        """Return an image by its name."""
        known = re.fullmatch(_PATTERN, name)
        data = None
        if known is not None:
            try:
                data = await asyncio.to_thread(service.store.get, name)
            except LookupError:
                data = None
        if known is None or data is None:
            raise FailureError(
                Failure(status=404, message="The image does not exist.", code="picture_not_found")
            )
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}  # a name never gets other content
        return Response(data, headers=headers, media_type=f"image/{known[2]}")

    return routes
