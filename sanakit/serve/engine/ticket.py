"""A request that an engine accepted, and its events."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL.Image import Image

from sanakit.models.controlnet import ControlledSana
from sanakit.pipelines.denoise import Sample
from sanakit.pipelines.request import Request
from sanakit.pipelines.result import Result

log = logging.getLogger(__name__)

Drawn = TypeVar("Drawn")  # the result of a request


@dataclass(frozen=True, slots=True)
class Stepped:
    """An image of a request, or its clip, is one step further."""

    ticket: AcceptedRequest[Any]
    number: int  # of the image; the first is 0
    index: int  # steps done
    total: int
    preview: Image | None


@dataclass(frozen=True, slots=True)
class Finished(Generic[Drawn]):
    """All images of a request are finished, or its clip."""

    ticket: AcceptedRequest[Drawn]
    result: Drawn


@dataclass(frozen=True, slots=True)
class Failed:
    """A request failed."""

    ticket: AcceptedRequest[Any]
    error: Exception


Event = Stepped | Finished[Result] | Failed


class AcceptedRequest(Generic[Drawn]):
    """An accepted request.

    wake: has the engine look at once. previews: with every step. name: its id in logs; None: a new one.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        on_event: Callable[[Stepped | Finished[Drawn] | Failed], None] | None,
        previews: bool,
        name: str | None = None,
    ) -> None:
        self.id = name or secrets.token_hex(8)
        self.previews = previews
        self.stopped = False
        self._wake, self._on_event = wake, on_event
        self._future: Future[Drawn] = Future()

    @property
    def done(self) -> bool:
        """Whether it is finished or has failed."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> Drawn:
        """Wait for the result. Raises what it failed with, or TimeoutError after `timeout` seconds."""
        return self._future.result(timeout)

    def cancel(self) -> None:
        """Stop it within one step; it then fails with StoppedError."""
        self.stopped = True
        self._wake()

    def tell(self, event: Stepped | Finished[Drawn] | Failed) -> None:
        """Pass an event to the caller's listener. Errors in listeners must not stop the engine."""
        if isinstance(event, Finished):
            self._future.set_result(event.result)
        elif isinstance(event, Failed):
            self._future.set_exception(event.error)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            log.exception("the listener of request %s failed", self.id)


class Ticket(AcceptedRequest[Result]):
    """An accepted request for images. deadline: seconds from now. whole: as for `Engine.submit`."""

    def __init__(
        self,
        request: Request,
        wake: Callable[[], None],
        on_event: Callable[[Event], None] | None,
        previews: bool,
        deadline: float | None,
        name: str | None = None,
        whole: bool = True,
    ) -> None:
        super().__init__(wake, on_event, previews, name)
        self.request, self.whole = request, whole
        self.accepted = time.monotonic()
        self.expires = None if deadline is None else self.accepted + deadline
        self.begun: float | None = None  # when its first image began
        self.samples: list[Sample] = []
        self.steered: ControlledSana | None = None  # the model with its control images, once it has begun
        self.notes: list[str] = list(request.notes)
        self._images: dict[int, Image] = {}  # that are done, by their number

    def add(self, number: int, image: Image) -> Result | None:
        """Take an image that is done; return the result if it was the last one."""
        self._images[number] = image
        if len(self._images) < self.request.num_images:
            return None
        begun = self.begun or self.accepted
        return Result(
            images=[self._images[number] for number in range(self.request.num_images)],
            seeds=self.request.seeds,
            timings={"queue": begun - self.accepted, "draw": time.monotonic() - begun},
            metadata=self.request.metadata,
            warnings=self.notes,
        )
