"""A request for a video, from JSON or a form, checked against the model and the server's limits.

Names of files are never looked at, and no address is fetched: an image comes in the body.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from functools import partial
from typing import Any, BinaryIO

from fastapi import Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import FormData

from sanakit.errors import ModelNotFoundError, SettingsError, SizeError
from sanakit.images.opening import flatten, open_image
from sanakit.pipelines.video.request import ClipRequest
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.http.door import MOST_JSON
from sanakit.serve.http.failures import Failure, FailureError, invalid, unknown_field
from sanakit.serve.http.service import Service
from sanakit.serve.http.uploads import texts_and_image
from sanakit.serve.http.videos.schema import REFERENCE, REFUSED, VideoForm, VideoRequest

MOST_BYTES = 2**30  # of the frames of one clip, 8 bits a channel
_URL = f"{REFERENCE}[image_url]"  # an object, as OpenAI's client sends it in a form
_NAMES = [*VideoRequest.model_fields, _URL]
_DATA = "data:"


async def read_video(
    service: Service, client: Request
) -> tuple[VideoRequest, ClipRequest, Image.Image | None]:
    """Read and check a request: its fields, what is to be drawn, and the image that it begins with, upright.

    Raises SettingsError, SizeError, ModelNotFoundError, FailureError.
    """
    kind = client.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = await client.body()
        return await service.decode(partial(_from_json, service, body))
    if kind != "multipart/form-data":
        raise SettingsError(
            "A video is asked for in JSON or a form: send application/json or multipart/form-data."
        )
    async with client.form(max_files=2, max_fields=64, max_part_size=MOST_JSON) as form:
        return await service.decode(partial(_from_form, service, form))


def check_video(service: Service, asked: VideoRequest, image: Image.Image | None) -> ClipRequest:
    """Check a request against the model and this server's limits.

    Raises SettingsError, SizeError, ModelNotFoundError.
    """
    if service.clips is None:
        raise ModelNotFoundError(
            "This server has no video model: start it with --model and the folder of one."
        )
    if asked.model in service.engine.specs:
        raise ModelNotFoundError(f"{asked.model} makes images: /v1/models tells which models make videos.")
    settings, limits = asked.settings(), service.settings
    service.check_steps(settings["steps"])
    service.check_sides(settings["width"] or 1, settings["height"] or 1)
    drawn = service.clips.check(asked.model, image=image, **settings)
    height, width = drawn.sampling.size
    service.check_sides(width, height)
    if drawn.frames > limits.max_frames:
        raise SettingsError(
            f"The clip would have {drawn.frames} frames, but this server allows at most {limits.max_frames}.",
            setting="frames",
        )
    check_bytes(drawn)
    return drawn


def check_bytes(drawn: ClipRequest) -> None:
    """Raise SizeError for a clip whose frames would take more memory than one clip may."""
    height, width = drawn.sampling.size
    if 3 * drawn.frames * width * height > MOST_BYTES:
        most = MOST_BYTES // (3 * width * height)
        raise SizeError(
            f"{drawn.frames} frames of {width}x{height} px are too much for one clip: ask for at most {most} "
            "frames, or for a smaller size."
        )


def _from_json(service: Service, body: bytes) -> tuple[VideoRequest, ClipRequest, Image.Image | None]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        message = "The body is not valid JSON: send one object in UTF-8, nested at most a few levels."
        raise FailureError(Failure(status=400, message=message, code="invalid_json")) from None
    if isinstance(fields, dict):
        _refuse(fields)
    asked = _validated(VideoRequest, fields)
    file = None if asked.input_reference is None else _from_url(asked.input_reference.image_url)
    return _checked(service, asked, file)


def _from_form(service: Service, form: FormData) -> tuple[VideoRequest, ClipRequest, Image.Image | None]:
    fields, file = texts_and_image(form, REFERENCE)
    _refuse(fields)
    if REFERENCE in fields:
        raise SettingsError(f"{REFERENCE} came as text: send the image as a file, or {_URL} with a data URL.")
    if (url := fields.pop(_URL, None)) is not None:
        if file is not None:
            raise SettingsError(f"{REFERENCE} came as a file and as a URL: send one of them.")
        file = _from_url(url)
    return _checked(service, _validated(VideoForm, fields), file)


def _refuse(fields: dict[str, Any]) -> None:
    """Refuse by name what other servers do, and what no body has. Raises SettingsError, FailureError."""
    for name in fields:
        if name in REFUSED:
            raise SettingsError(f"{name} {REFUSED[name]}.")
        if name not in _NAMES:
            raise FailureError(unknown_field(name, _NAMES))
    if isinstance(reference := fields.get(REFERENCE), dict) and "file_id" in reference:
        raise SettingsError(f"{REFERENCE}[file_id] {REFUSED[f'{REFERENCE}[file_id]']}.")


def _validated(kind: type[VideoRequest], fields: Any) -> VideoRequest:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise FailureError(invalid(error.errors(), _NAMES)) from None


def _from_url(url: str) -> BinaryIO:
    """Return the file in a data URL. Raises SettingsError for any other, as nothing is fetched."""
    head, comma, data = url.partition(",")
    if not url[: len(_DATA)].lower() == _DATA or not comma or not head.lower().endswith(";base64"):
        raise SettingsError(
            f"{REFERENCE} is not a data URL, and no address is fetched: send data:image/png;base64,..."
        )
    try:
        return io.BytesIO(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):  # the latter for other letters than ASCII
        raise SettingsError(f"The data URL of {REFERENCE} is not base64: send an image in base64.") from None


def _checked(
    service: Service, asked: VideoRequest, file: BinaryIO | None
) -> tuple[VideoRequest, ClipRequest, Image.Image | None]:
    """Decode the image in its turn, and check the request with it."""
    if file is None:
        return asked, check_video(service, asked, None), None
    width, height = header_size(file)
    with service.engine.decoding.turn(width * height):
        image = flatten(open_image(file, f"The image of {REFERENCE}"))
        return asked, check_video(service, asked, image), image
