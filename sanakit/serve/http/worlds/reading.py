"""A request for a walk: a form with an image, checked against the model and the server's limits.

Names of files are never looked at, and no address is fetched.
"""

from __future__ import annotations

from functools import partial

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData

from sanakit.errors import ModelNotFoundError, SettingsError
from sanakit.images.opening import flatten, open_image
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.engine.world_engine import WalkRequest, WorldEngine
from sanakit.serve.http.failures import FailureError, invalid, unknown_field
from sanakit.serve.http.openai_schema import plain_name
from sanakit.serve.http.service import Service
from sanakit.serve.http.uploads import texts_and_image
from sanakit.serve.http.worlds.schema import WalkForm

FILE = "image"
_NAMES = [FILE, *WalkForm.model_fields]


async def read_walk(service: Service, worlds: WorldEngine, client: Request) -> tuple[WalkForm, WalkRequest]:
    """Read and check what a walk is to begin with.

    Raises SettingsError, SizeError, ModelNotFoundError, FailureError.
    """
    if client.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise SettingsError("A walk begins with an image: send multipart/form-data with the file image.")
    async with client.form(max_files=2, max_fields=64, max_part_size=1_000_000) as form:
        return await service.decode(partial(_from_form, service, worlds, form))


def _from_form(service: Service, worlds: WorldEngine, form: FormData) -> tuple[WalkForm, WalkRequest]:
    fields, file = texts_and_image(form, FILE)
    for name in form:
        if name not in _NAMES:
            raise FailureError(unknown_field(name, _NAMES))
    if FILE in fields:
        raise SettingsError("image came as text: send it as a file.")
    if file is None:
        raise SettingsError("The form has no file named image: a walk needs an image to start from.")
    try:
        asked = WalkForm.model_validate(fields)
    except ValidationError as error:
        raise FailureError(invalid(error.errors(), _NAMES)) from None
    if asked.model not in (None, worlds.name):
        raise ModelNotFoundError(
            f"{plain_name(asked.model)} is not the world model of this server: it is {worlds.name}."
        )
    settings = asked.settings()
    service.check_steps(asked.steps)
    service.check_sides(settings.get("width") or 1, settings.get("height") or 1)
    width, height = header_size(file)
    with service.engine.decoding.turn(width * height):
        image = flatten(open_image(file, "The image"))
        checked = worlds.check(image, asked.prompt, asked.negative_prompt, asked.frames.upper(), **settings)
    return asked, checked
