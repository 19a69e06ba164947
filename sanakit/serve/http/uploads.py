"""Uploads: fields, images and masks of forms, and control images in base64; none of them is trusted.

File names of clients are never looked at. OpenAI's rule for masks also holds in `pipelines.source`:
transparent pixels of the mask, or without one of the image, are redrawn. There, white marks them if nothing
is transparent.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, BinaryIO

from fastapi import Request
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from sanakit.errors import SettingsError, SizeError
from sanakit.images.masks import repaint_mask, transparency_mask
from sanakit.images.opening import flatten, open_image
from sanakit.pipelines.request import Request as Drawn
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.engine.steering import NamedControl
from sanakit.serve.http.door import MOST_BESIDE, MOST_JSON, PLAIN_JSON, beside_base64
from sanakit.serve.http.failures import FailureError, invalid, unknown_field
from sanakit.serve.http.openai_schema import DrawingSettings, EditRequest, plain_name
from sanakit.serve.http.service import Service

_FILES = {"image": "image", "image[]": "image", "mask": "mask"}  # OpenAI's client sends lists with brackets
_ADAPTER = re.compile(r"adapters\[(.{1,200})\]")  # an object, as OpenAI's client sends it
_DATA = re.compile(r"data:[a-z0-9.+/-]{0,100};base64,", re.IGNORECASE)
_SLICE = 1 << 20  # characters of base64 that are decoded at a time; a multiple of four
_NAMES = [*EditRequest.model_fields, *_FILES]


async def check_generation(service: Service, body: DrawingSettings) -> tuple[Drawn, list[NamedControl]]:
    """Check a request for images; return what is to be drawn, and its control images, decoded.

    Raises SettingsError, SizeError, ModelNotFoundError.
    """

    def check() -> tuple[Drawn, list[NamedControl]]:
        files = control_files(body)
        with service.engine.decoding.turn(sum(map(_pixels, files))):
            controls = open_controls(body, files)
            return service.check(body, control=controls), controls

    return await service.decode(check)


async def read_edit(
    service: Service, client: Request
) -> tuple[EditRequest, Drawn, dict[str, Image.Image], list[NamedControl]]:
    """Read and check an edit: its fields, what is to be drawn, "image" and perhaps "mask", upright, and its
    control images.

    Raises SettingsError, SizeError, ModelNotFoundError, FailureError.
    """
    if client.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise SettingsError("An edit must be a form: send multipart/form-data.")
    async with client.form(max_files=3, max_fields=64, max_part_size=MOST_JSON) as form:
        body, files = await service.decode(partial(_sorted, form))
        image, mask = files["image"].file, files["mask"].file if "mask" in files else None

        def check() -> tuple[Drawn, dict[str, Image.Image], list[NamedControl]]:
            width, height = header_size(image)
            if body.sides == (None, None):  # the result has the upload's size
                service.check_sides(width, height)
            shown = control_files(body)
            with service.engine.decoding.turn(width * height + sum(map(_pixels, shown))):
                sources, controls = open_images(image, mask), open_controls(body, shown)
                drawn = service.check(body, strength=body.strength, control=controls, **sources)
                return drawn, sources, controls

        return body, *await service.decode(check)


def open_images(image: BinaryIO, mask: BinaryIO | None) -> dict[str, Image.Image]:
    """Decode "image" (RGB, upright) and what is to be redrawn as "mask" (white), if there is one.

    Blocks while it decodes. Raises SettingsError, SizeError.
    """
    if mask is not None:
        _check_sizes(header_size(image), header_size(mask))
    picture = open_image(image, "The image")
    sources = {"image": flatten(picture)}
    if mask is not None:
        sources["mask"] = repaint_mask(open_image(mask, "The mask"), sources["image"].size)
    elif (clear := transparency_mask(picture)) is not None:
        sources["mask"] = clear
    return sources


def control_files(body: DrawingSettings) -> list[io.BytesIO]:
    """Return the files of a body's control images. Raises SettingsError for what is not base64."""
    named = enumerate(body.control or (), 1)
    return [file_of(one.image, f"The image of control {number}") for number, one in named]


def file_of(text: str, what: str) -> io.BytesIO:
    """Return the file that base64 or a data URL holds. what: it is, at the beginning of a message.

    Raises SettingsError.
    """
    start = _DATA.match(text)
    try:
        return io.BytesIO(_decoded(text[start.end() if start else 0 :]))
    except (binascii.Error, ValueError):  # the latter for other letters than ASCII
        raise SettingsError(
            f"{what} is not base64: send a PNG, JPEG or WebP file in base64, or as a data URL "
            "(data:image/png;base64,...)."
        ) from None


def _decoded(text: str) -> bytes:
    """Decode base64, some at a time: one call for all of it would hold up all other threads meanwhile.

    Raises ValueError.
    """
    if "=" in text[:-2]:
        raise ValueError("it ends in the middle")
    parts = (text[start : start + _SLICE] for start in range(0, len(text), _SLICE))
    return b"".join(base64.b64decode(part, validate=True) for part in parts)


def open_controls(body: DrawingSettings, files: Sequence[BinaryIO]) -> list[NamedControl]:
    """Decode a body's control images, from `control_files`, RGB and upright. Raises SettingsError."""
    return [
        {
            "name": one.name,
            "image": flatten(open_image(file, f"The image of control {number}")),
            "kind": one.kind,
            "scale": one.scale,
            "start": one.start,
            "end": one.end,
        }
        for number, (one, file) in enumerate(zip(body.control or (), files, strict=True), 1)
    ]


def _pixels(file: BinaryIO) -> int:
    width, height = header_size(file)
    return width * height


def _check_sizes(image: tuple[int, int], mask: tuple[int, int]) -> None:
    """Refuse a mask of another size before it is decoded. Raises SizeError."""
    if (0, 0) not in (image, mask) and sorted(image) != sorted(mask):  # either may be turned by its EXIF data
        raise SizeError(f"The mask is {mask[0]}x{mask[1]}, the image {image[0]}x{image[1]}: make them equal.")


def _sorted(form: FormData) -> tuple[EditRequest, dict[str, UploadFile]]:
    """Return a form's checked fields and its files. Raises SettingsError, FailureError."""
    fields: dict[str, Any] = {}
    adapters: dict[str, str] = {}
    files: dict[str, UploadFile] = {}
    for name, value in form.multi_items():
        name = _FILES.get(name or "", name or "")
        if (adapter := _ADAPTER.fullmatch(name)) and isinstance(value, str) and adapter[1] not in adapters:
            adapters[adapter[1]] = value
            continue
        if name.startswith("control["):  # as OpenAI's client sends a list of objects: not which part is whose
            raise SettingsError(
                "A form has control as JSON in one field: send json.dumps([...]) as its text."
            )
        if _left_empty(name, value):
            continue
        told = plain_name(name)
        if name not in _NAMES:
            raise FailureError(unknown_field(name, _NAMES))
        if name in files and isinstance(value, UploadFile):
            raise SettingsError(f"More than one {name} came, and an edit takes one: send a single {name}.")
        if name in fields or name in files:
            raise SettingsError(f"The field {told!r} was sent twice: send each field once.")
        if isinstance(value, UploadFile) != (name in ("image", "mask")):
            came = "a file" if isinstance(value, UploadFile) else "text"
            raise SettingsError(f"{told!r} came as {came}: image and mask must be files, other fields text.")
        if isinstance(value, UploadFile) and not value.size:
            raise SettingsError(f"The file of {told!r} is empty: send an image, or omit the field.")
        if isinstance(value, UploadFile):
            files[name] = value
        else:
            fields[name] = _parsed(value) if name == "control" else value
    if adapters:
        fields.setdefault("adapters", adapters)
    if "image" not in files:
        raise SettingsError("The form has no file named image: an edit needs an image to start from.")
    try:
        return EditRequest.model_validate(fields), files
    except ValidationError as error:
        raise FailureError(invalid(error.errors(), _NAMES)) from None


def _parsed(text: str) -> Any:
    """Return the value of a field that holds JSON; text that is none stays text, which no field takes.

    Raises SettingsError for a long one that is long by more than its images.
    """
    if len(text) > PLAIN_JSON and beside_base64(text.encode(errors="replace")) > MOST_BESIDE:
        raise SettingsError(
            f"control has more than {PLAIN_JSON:,} characters besides its images: shorten it."
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def texts_and_image(form: FormData, image: str) -> tuple[dict[str, str], BinaryIO | None]:
    """Return the texts of a form, and the file of the one field that is one, None where there is none.

    Fields that a browser leaves empty are not there. Raises SettingsError for other files, an empty file, and
    a field that came twice.
    """
    texts: dict[str, str] = {}
    file: BinaryIO | None = None
    for name, value in form.multi_items():
        if _left_empty(name, value):
            continue
        told = plain_name(name)
        if isinstance(value, str):
            if name in texts:
                raise SettingsError(f"The field {told!r} was sent twice: send each field once.")
            texts[name] = value
            continue
        if name != image:
            raise SettingsError(f"{told!r} came as a file: {image} alone may be one.")
        if file is not None:
            raise SettingsError(f"More than one {image} came: send a single one.")
        if not value.size:
            raise SettingsError(f"The file of {image!r} is empty: send an image.")
        file = value.file
    return texts, file


def _left_empty(name: str, value: UploadFile | str) -> bool:
    """Return whether nothing was entered: a browser sends a form's empty fields, and files of no name."""
    if isinstance(value, UploadFile):
        return not value.size and not value.filename
    return not value and name != "prompt"
