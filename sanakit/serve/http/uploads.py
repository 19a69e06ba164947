"""Uploads by form: fields, images and masks, none of them trusted.

File names of clients are never looked at. OpenAI's rule for masks also holds in `pipelines.source`:
transparent pixels of the mask, or without one of the image, are redrawn. There, white marks them if nothing
is transparent.
"""

from __future__ import annotations

import asyncio
from typing import Any, BinaryIO

from fastapi import Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from sanakit.errors import SettingsError
from sanakit.images.masks import repaint_mask, transparency_mask
from sanakit.images.opening import flatten, open_image
from sanakit.pipelines.request import Request as Drawn
from sanakit.serve.http.failures import FailureError, invalid
from sanakit.serve.http.openai_schema import MAX_PROMPT, EditRequest
from sanakit.serve.http.service import Service

_FILES = {"image": "image", "image[]": "image", "mask": "mask"}  # OpenAI's client sends lists with brackets


async def read_edit(service: Service, client: Request) -> tuple[EditRequest, Drawn, dict[str, Image.Image]]:
    """Read and check an edit: its fields, what is to be drawn, and "image" and perhaps "mask", upright.

    Raises SettingsError, SizeError, ModelNotFoundError, FailureError.
    """
    if client.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise SettingsError("An edit must be a form: send multipart/form-data.")
    async with client.form(max_files=3, max_fields=40, max_part_size=4 * MAX_PROMPT) as form:
        body, files = _sorted(form)

        def check() -> tuple[Drawn, dict[str, Image.Image]]:
            sources = open_images(files["image"].file, files["mask"].file if "mask" in files else None)
            return service.check(body, strength=body.strength, **sources), sources

        drawn, sources = await asyncio.to_thread(check)
        return body, drawn, sources


def open_images(image: BinaryIO, mask: BinaryIO | None) -> dict[str, Image.Image]:
    """Decode "image" (RGB, upright) and what is to be redrawn as "mask" (white), if there is one.

    Blocks while it decodes. Raises SettingsError, SizeError.
    """
    picture = open_image(image, "The image")
    sources = {"image": flatten(picture)}
    if mask is not None:
        sources["mask"] = repaint_mask(open_image(mask, "The mask"), sources["image"].size)
    elif (clear := transparency_mask(picture)) is not None:
        sources["mask"] = clear
    return sources


def _sorted(form: FormData) -> tuple[EditRequest, dict[str, UploadFile]]:
    """Return a form's checked fields and its files. Raises SettingsError, FailureError."""
    fields: dict[str, Any] = {}
    files: dict[str, UploadFile] = {}
    for name, value in form.multi_items():
        name = _FILES.get(name or "", name or "")
        if name in fields or name in files:
            raise SettingsError("A field was sent twice: send each field once.")
        if isinstance(value, UploadFile) != (name in ("image", "mask")):
            raise SettingsError("image and mask must be files, all other fields text.")
        if isinstance(value, UploadFile):
            files[name] = value
        else:
            fields[name] = value
    if "image" not in files:
        raise SettingsError("The form has no file named image: an edit needs an image to start from.")
    try:
        return EditRequest.model_validate(fields), files
    except ValidationError as error:
        raise FailureError(invalid(error.errors(), [*EditRequest.model_fields, *_FILES])) from None
