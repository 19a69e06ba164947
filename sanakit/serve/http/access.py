"""Access control: API keys, limits of each key, and pages of other origins.

Checked before a body is read, so that a client without a key cannot send megabytes first. Guarded is all
under /v1 but /v1/pictures: pages show images by address and can send no header, so their unguessable names
are the key. Without any key only this machine's users have access, and only by a name of this machine.
Otherwise a web page could call through its own domain, pointed here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from fastapi import Request
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sanakit.errors import DeadlineError, RefusedError, SanaError, StoppedError, StorageError
from sanakit.serve.http.failures import Failure, FailureError, failure_of
from sanakit.serve.jobs.keys import Key, KeyStore, Limiter, Refusal

LOOPBACK = ("127.0.0.1", "localhost", "::1")
bearer = HTTPBearer(
    auto_error=False, description="A key made by `sana keys create`."
)  # for the schema: see Guard


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request. key: None if none was needed."""

    key: Key | None

    @property
    def key_id(self) -> str | None:
        """Whose jobs these are."""
        return self.key.id if self.key else None


class Access:
    """The keys and their limits. no_auth: accept everybody. local: see `HttpSettings`."""

    def __init__(self, keys: KeyStore, *, no_auth: bool, local: bool, limiter: Limiter | None = None) -> None:
        self._keys = keys
        self._limiter = limiter or Limiter(keys)
        self.no_auth = no_auth
        self._local = local
        self._locked = False  # once there are keys, one is needed, also after the last one was revoked

    def admit(self, authorization: str | None, address: str, host: str) -> Caller:
        """Return the caller of a request. Raises FailureError or StorageError; blocks."""
        if self.no_auth:
            return Caller(None)
        if not self.needs_key():  # whatever key came: OpenAI's client must send one
            self.check_host(host)
            return Caller(None)
        kind, _, token = (authorization or "").partition(" ")
        key = self._keys.verify(token.strip()) if kind.lower() == "bearer" else None
        if key is not None:
            return Caller(key)
        if refusal := self._limiter.wrong(address):
            raise _too_many(refusal)
        message = "This key is not valid: send one of this server's as `Authorization: Bearer KEY`."
        headers = {"WWW-Authenticate": "Bearer"}
        raise FailureError(Failure(status=401, message=message, code="invalid_api_key", headers=headers))

    def needs_key(self) -> bool:
        """Return whether every request needs a key. Raises StorageError; blocks."""
        if self.no_auth:
            return False
        self._locked = self._locked or not self._local or self._keys.any()
        return self._locked

    def check_host(self, host: str) -> None:
        """Let only names of this machine pass while the machine alone is what guards it.

        Raises FailureError, StorageError; blocks.
        """
        if _split(f"//{host}").hostname not in LOOPBACK and not self.no_auth and not self.needs_key():
            message = (
                f"Without keys this server answers only as 127.0.0.1 or localhost, not {host[:100]!r}: "
                "make a key with "
                "`sana keys create NAME` to use other names."
            )
            raise FailureError(Failure(status=403, message=message, code="foreign_host"))

    def charge(self, caller: Caller, num_images: int) -> None:
        """Count a request for so many images. Raises FailureError (429), StorageError; blocks."""
        if caller.key is not None and (refusal := self._limiter.check(caller.key, num_images)):
            raise _too_many(refusal)

    def refund_failed(self, caller: Caller, num_images: int, error: Exception) -> None:
        """Take back what was charged for images that were not drawn, unless that was the caller's own doing.

        Nor is an error of the database told, where there is a first one to tell. Blocks.
        """
        if not isinstance(error, (StoppedError, RefusedError, DeadlineError)):
            with suppress(StorageError):
                self.refund(caller, num_images)

    def refund(self, caller: Caller, num_images: int) -> None:
        """Take back what was charged for a request that was not served after all; blocks."""
        if caller.key is not None:
            self._limiter.refund(caller.key, num_images)


class AccessGuard:
    """Lets requests pass to the app behind it once `Access` admits them. origins: pages that may call."""

    def __init__(
        self, app: ASGIApp, access: Access, origins: tuple[str, ...], *, detailed: bool = False
    ) -> None:
        self._app = app
        self._access = access
        self._origins = origins
        self._detailed = detailed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith("/v1/") or path.startswith("/v1/pictures/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        try:
            check_origin(headers.get("origin"), host, self._origins)
            address = (scope.get("client") or ("unknown",))[0]
            caller = await asyncio.to_thread(self._access.admit, headers.get("authorization"), address, host)
        except (FailureError, SanaError) as error:
            failure = failure_of(error, scope["state"]["request_id"], detailed=self._detailed)
            await failure.response()(scope, receive, send)
            return
        scope["state"]["who"] = caller
        scope["state"]["caller"] = caller.key_id or "-"  # for the log
        await self._app(scope, receive, send)


def check_origin(origin: str | None, host: str, allowed: tuple[str, ...]) -> None:
    """Let only pages of this server and of allowed origins call. Raises FailureError.

    A browser names the page that asks; one of elsewhere may send forms without asking us first.
    """
    if origin is None or "*" in allowed or origin in allowed:
        return
    if _split(origin).netloc != host:
        message = "Pages of this origin may not call this server: start it with --cors ORIGIN to allow them."
        raise FailureError(Failure(status=403, message=message, code="foreign_origin"))


def caller_of(client: Request) -> Caller:
    """Return the caller of a guarded request."""
    return client.scope["state"]["who"]


def _split(address: str) -> SplitResult:
    """Take an address of a header apart; an invalid address has no parts."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _too_many(refusal: Refusal) -> FailureError:
    headers = {"Retry-After": str(refusal.retry_after)}
    failure = Failure(
        status=429,
        message=refusal.message,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers=headers,
    )
    return FailureError(failure)
