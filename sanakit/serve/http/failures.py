"""Errors as answers: the status of each exception, in OpenAI's form.

400 the request is wrong and stays wrong: settings, sizes, files, a filter's no, more memory than there is
    (asking again would not help, and OpenAI's client asks again after any 5xx)
401 403 404 405 409 413 429    access, address and limits
500 our own mistake: logged with the request's id, of which alone the client hears
503 not now: the queue is full (OpenAI, too, keeps 429 for what one key sent too much, and balancers take
    another server at 503), draining, the database or the disk is gone
504 the request's own deadline has passed

OpenAI's client retries after 409, 429 and any 5xx, unless the answer's X-Should-Retry decides. Here that is
"true" exactly if Retry-After says that waiting may help.
"""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as PlainHTTPException
from starlette.routing import compile_path

from sanakit.errors import (
    BusyError,
    ClosedError,
    DeadlineError,
    MemoryLimitError,
    ModelNotFoundError,
    NumericsError,
    OutputError,
    RefusedError,
    SanaError,
    SettingsError,
    SizeError,
    StoppedError,
    StorageError,
)
from sanakit.serve.http.openai_schema import (
    EXPECTED,
    ControlField,
    ErrorDetail,
    ErrorReply,
    GenerationRequest,
    plain_name,
)

log = logging.getLogger(__name__)

RETRY_AFTER = 2  # seconds: about a few images of the queue
MOST_PATIENCE = 60  # seconds after which clients should ask again by themselves; a day's quota takes longer
_TOO_LARGE = "This takes more memory than the server allows: ask for a smaller size, or for fewer frames."


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An error answer."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON, which is also the `error` event of a stream."""
        detail = ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code)
        return ErrorReply(error=detail).model_dump()

    def response(self) -> JSONResponse:
        """Return the answer, which tells clients whether to ask again."""
        again = int(self.headers.get("Retry-After", MOST_PATIENCE + 1)) <= MOST_PATIENCE
        headers = self.headers | {"X-Should-Retry": "true" if again else "false"}
        return JSONResponse(self.body(), self.status, headers)


class FailureError(HTTPException):
    """Raise a failure as it is; Starlette's readers of bodies let this class through."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.status, failure.message, failure.headers)
        self.failure = failure


_SERVER = "server_error"
# The first class that fits: status, type, param, code, whether asking again soon may help.
_KNOWN: list[tuple[type[Exception], int, str, str | None, str | None, bool]] = [
    (SizeError, 400, "invalid_request_error", "size", "invalid_size", False),
    (SettingsError, 400, "invalid_request_error", None, "invalid_value", False),
    (RefusedError, 400, "image_generation_user_error", "prompt", "moderation_blocked", False),
    (MemoryLimitError, 400, "invalid_request_error", "size", "memory_limit", False),
    (ModelNotFoundError, 404, "invalid_request_error", "model", "model_not_found", False),
    (NumericsError, 500, _SERVER, None, "numerics", False),
    (BusyError, 503, _SERVER, None, "busy", True),
    (ClosedError, 503, _SERVER, None, "closing", True),
    (StoppedError, 503, _SERVER, None, "stopped", False),
    (StorageError, 503, _SERVER, None, "storage", True),
    (OutputError, 503, _SERVER, None, "storage", True),
    (DeadlineError, 504, _SERVER, "deadline", "deadline_passed", False),
]
# Settings that bodies have by another name.
_FIELDS = {
    **{"num_images": "n", "width": "size", "height": "size", "rate": "fps"},
    **dict.fromkeys(("control_kind", "control_scale", "control_start", "control_end"), "control"),
}


def failure_of(error: Exception, request_id: str, *, detailed: bool = False) -> Failure:
    """Say an exception in OpenAI's form; errors that clients cannot cause are logged, and the answer only has
    their id.

    detailed: whether messages of foreign exceptions may be logged: a prompt may stand in them.
    """
    if isinstance(error, FailureError):
        return error.failure
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of spooled uploads
        error = StorageError(f"No space is left for an upload ({error.filename}).")
    for kind, status, type_, param, code, again in _KNOWN:
        if isinstance(error, kind):
            message, setting = str(error), setting_of(error)
            param = _FIELDS.get(setting, setting) or param
            if code == "storage":  # which names folders and hosts
                log.error("request %s failed: %s", request_id, message)
                message = "The server's storage is not available now: try again later."
            if code == "memory_limit":  # whose remedy is the operator's
                log.warning("request %s was refused: %s", request_id, message)
                message = _TOO_LARGE
            headers = {"Retry-After": str(RETRY_AFTER)} if again else {}
            return Failure(
                status=status, message=message, type=type_, param=param, code=code, headers=headers
            )
    trace = "".join(traceback.format_tb(error.__traceback__))
    message = f": {error}" if detailed or isinstance(error, SanaError) else ""
    log.error("request %s failed: %s%s\n%s", request_id, type(error).__name__, message, trace)
    sentence = f"The server failed. Its log has details under the id {request_id}."
    return Failure(status=500, message=sentence, type=_SERVER, code="internal_error")


def setting_of(error: Exception) -> str:
    """Return the name of the setting that an error refuses; "" where it is about no single one."""
    named = error.setting if isinstance(error, SettingsError) else ""
    return named or next((param for kind, _, _, param, *_ in _KNOWN if isinstance(error, kind)), None) or ""


def detail_of(message: str, name: str) -> ErrorDetail:
    """Say an error in OpenAI's form of which only message and class name were kept, as of a failed job."""
    known = {kind.__name__: (type_, param, code) for kind, _, type_, param, code, _ in _KNOWN}
    type_, param, code = known.get(name, (_SERVER, None, "internal_error"))
    if code == "memory_limit":
        message = _TOO_LARGE
    return ErrorDetail(message=message, type=type_, param=param, code=code)


def invalid(errors: Sequence[Any], known: Collection[str]) -> Failure:
    """Say in one sentence what pydantic found: 400, as OpenAI answers, and without the input.

    known: the names of the body's fields, of which the nearest is told where one is unknown.
    """
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = ".".join(place) or None
    if first["type"] == "extra_forbidden":
        return unknown_field(first["ctx"]["field"], ControlField.model_fields if place else known)
    if first["type"] == "json_invalid":
        return Failure(status=400, message="The body is not valid JSON.", code="invalid_json")
    if param is None and first["type"] == "missing":
        said = 'The body is empty: send JSON such as {"prompt": "a red apple"}.'
        return Failure(status=400, message=said, code="missing_required_parameter")
    if param is None:
        said = "The body must be a JSON object, sent with the header Content-Type: application/json."
        return Failure(status=400, message=said, code="invalid_json")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    said = first["msg"]
    if first["type"] == "string_pattern_mismatch" and param in EXPECTED:
        said = EXPECTED[param]
    message = f"{param or 'The body'}: {said}."
    return Failure(status=400, message=message, param=param, code=code)


def unknown_field(name: str, known: Collection[str]) -> Failure:
    """Refuse a field that no body has; name the nearest one that bodies have."""
    name = plain_name(name)
    nearest = get_close_matches(name, known, 1)
    meant = f": did you mean {nearest[0]!r}?" if nearest else "; /openapi.json lists all of them."
    return Failure(status=400, message=f"Unknown field {name!r}{meant}", param=name, code="unknown_parameter")


def _undecoded(request: Request, detail: str) -> Failure:
    """Say that a body could not be read as what its type says it is."""
    if "form" in request.headers.get("content-type", "").lower():
        message = f"The form cannot be read ({detail.rstrip('.')}): send multipart/form-data as browsers do."
        return Failure(status=400, message=message, code="invalid_form")
    message = "The body is not valid JSON: send one object in UTF-8, nested at most a few levels."
    return Failure(status=400, message=message, code="invalid_json")


def _methods(app: FastAPI, path: str) -> str:
    """Return the methods of an address, as /openapi.json lists them: Starlette tells those of one route."""
    paths: dict[str, dict[str, Any]] = app.openapi()["paths"]
    places = [path] if path in paths else [place for place in paths if compile_path(place)[0].match(path)]
    return ", ".join(sorted(method.upper() for place in places for method in paths[place]))


def install(app: FastAPI, *, detailed: bool = False) -> None:
    """Answer every error of the app's routes in OpenAI's form."""

    def known(request: Request, error: Exception) -> JSONResponse:
        return failure_of(error, request.scope["state"]["request_id"], detailed=detailed).response()

    def unreadable(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors(), GenerationRequest.model_fields).response()

    def plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, PlainHTTPException)
        if isinstance(error, FailureError):
            return error.failure.response()
        if error.status_code == 400:  # a body that its reader could not take apart
            return _undecoded(request, error.detail).response()
        words = HTTPStatus(error.status_code).phrase
        message = {
            404: f"{request.url.path[:100]} does not exist here; /openapi.json lists all addresses.",
            405: f"{request.method[:10]} is not supported at this address.",
        }.get(error.status_code, error.detail or words)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _methods(app, request.url.path) or headers.get("Allow", "")
        failure = Failure(
            status=error.status_code, message=message, code=words.lower().replace(" ", "_"), headers=headers
        )
        return failure.response()

    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(PlainHTTPException, plain)
    app.add_exception_handler(SanaError, known)
