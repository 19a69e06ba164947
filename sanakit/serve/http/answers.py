"""Descriptions of answers and bodies for /openapi.json: statuses, errors, examples, the form of an edit."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.models import Example

from sanakit.serve.http.openai_schema import (
    CompletedEvent,
    EditRequest,
    ErrorReply,
    PartialImageEvent,
)
from sanakit.serve.http.videos.schema import VideoRequest, form_schema
from sanakit.serve.http.worlds.schema import WalkForm, WorldFrameEvent, WorldMomentEvent

REF = "#/components/schemas/"
_FOREVER = (400, 401, 429)  # what every guarded route may answer
_WORDS = {
    400: "The request is invalid; the message says how to correct it.",
    401: "The key is missing or not valid on this server.",
    403: "A web page of an origin that this server does not allow.",
    404: "The model, job, image, video or walk does not exist.",
    405: "The address does not support this method.",
    409: "The job has already ended; the video is not there yet, or failed; the walk is moving.",
    413: "The body is larger than this server allows.",
    416: "The file ends before the requested range.",
    429: "Too many requests for this key or address; Retry-After says when to try again.",
    500: "An error of the server; its log has details under the answer's X-Request-Id.",
    503: "Not available now: the queue is full, the server is stopping, or its storage fails.",
    504: "The request's own deadline has passed.",
}
EXAMPLES: dict[str, Example] = {
    "apple": {"summary": "One image", "value": {"prompt": "a red apple"}},
    "seeded": {
        "summary": "Two images, exactly described",
        "value": {
            "prompt": "a red apple",
            "negative_prompt": "green",
            "n": 2,
            "size": "256x256",
            "steps": 20,
            "guidance": 4.5,
            "seed": 7,
        },
    },
}
VIDEO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": f"{REF}VideoRequest"}},
            "multipart/form-data": {"schema": {"$ref": f"{REF}VideoForm"}},
        },
    }
}
EDIT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": {"$ref": f"{REF}EditForm"}}},
    }
}
WALK_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": {"$ref": f"{REF}WalkForm"}}},
    }
}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error answers: those that every route with a key may give, and these."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*_FOREVER, 403, 413, *statuses}):
        found[status] = {"model": ErrorReply, "description": _WORDS[status]}
        if status in (429, 503):
            headers = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}
            found[status]["headers"] = headers
    return found


def move_answer() -> dict[int | str, dict[str, Any]]:
    """Document that a route's success is a stream of a walk's frames and moments."""
    events = [{"$ref": f"{REF}{model.__name__}"} for model in (WorldFrameEvent, WorldMomentEvent, ErrorReply)]
    schema = {"description": "Server-sent events; x-events tells what their data are."}
    content = {"text/event-stream": {"schema": schema, "x-events": {"oneOf": events}}}
    return {200: {"description": "Frames as they come, and a moment behind each chunk.", "content": content}}


def stream_answer() -> dict[int | str, dict[str, Any]]:
    """Document that a route's success may be a stream; the JSON form is the route's own model."""
    events = [{"$ref": f"{REF}{model.__name__}"} for model in (PartialImageEvent, CompletedEvent, ErrorReply)]
    # Without a type: some readers of the schema take it for one event, others for the whole text.
    schema = {"description": "Server-sent events; x-events tells what their data are."}
    content = {"text/event-stream": {"schema": schema, "x-events": {"oneOf": events}}}
    return {200: {"description": "The images; with stream = true as events.", "content": content}}


def finish_schema(app: FastAPI, max_steps: int, max_frames: int) -> None:
    """Complete the schema that FastAPI writes: models of events and forms, no 422, which we never answer.

    max_steps, max_frames: of one request, as this server allows.
    """
    write = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = write()
        models = schema.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            models.pop(name, None)
        events = (PartialImageEvent, CompletedEvent, ErrorReply, WorldFrameEvent, WorldMomentEvent)
        for model in (*events, VideoRequest, WalkForm):
            found = model.model_json_schema(ref_template=f"{REF}{{model}}")
            models |= found.pop("$defs", {})
            models[model.__name__] = found
        models["EditForm"] = _edit_form()
        models["WalkForm"] = _walk_form(models["WalkForm"])
        models["VideoForm"] = _without_null(form_schema(models["VideoRequest"]))
        for name in ("GenerationRequest", "EditForm"):
            _bound(models[name]["properties"]["steps"], max_steps)
        most = {"steps": max_steps, "num_inference_steps": max_steps}
        most |= {"frames": max_frames, "num_frames": max_frames}
        for name in ("VideoRequest", "VideoForm"):
            for field, limit in most.items():
                _bound(models[name]["properties"][field], limit)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = openapi


def _edit_form() -> dict[str, Any]:
    """Return the form of an edit: the fields of the model, and its files."""
    form = EditRequest.model_json_schema(ref_template=f"{REF}{{model}}")
    form.pop("$defs")
    control = "JSON of the list that GenerationRequest has."
    form["properties"]["control"] = {"type": "string", "title": "Control", "description": control}
    form = _without_null(form)
    file = {"type": "string", "format": "binary"}
    image = "A PNG, JPEG or WebP file. Without a mask, its transparent part is redrawn, if it has one."
    mask = "An image of the image's size: its transparent, or else its white part is redrawn."
    form["properties"]["image"] = file | {"description": image}
    form["properties"]["mask"] = file | {"description": mask}
    form["required"] = ["image", *form["required"]]
    return form


def _walk_form(form: dict[str, Any]) -> dict[str, Any]:
    """Return the form of a walk: the fields of the model, and its file."""
    image = "A PNG, JPEG or WebP file: the first frame."
    file = {"type": "string", "format": "binary", "description": image}
    fields = _without_null(form)
    return fields | {"properties": {"image": file, **fields["properties"]}, "required": ["image"]}


def _without_null(form: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a form, which has no null: a field is there or not."""
    fields: dict[str, Any] = {}
    for name, field in form["properties"].items():
        kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
        rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
        fields[name] = rest | kinds[0] if kinds else dict(field)
    return form | {"properties": fields}


def _bound(field: dict[str, Any], most: int) -> None:
    """Lower the maximum of a field's whole numbers."""
    for kind in (field, *field.get("anyOf", ())):
        if "maximum" in kind:
            kind["maximum"] = min(kind["maximum"], most)
