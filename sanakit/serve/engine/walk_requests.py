"""Requests to the engine of worlds: to enter one, and for one chunk of a walk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from sanakit.pipelines.world.request import WorldRequest
from sanakit.pipelines.world.world import WorldDrawSettings
from sanakit.serve.engine.ticket import AcceptedRequest, Failed, Finished, Stepped
from sanakit.serve.engine.walk import Walk, WalkChunk, WalkMoment


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WalkRequest:
    """The beginning of a walk, checked without weights."""

    image: Image.Image
    prompt: str
    negative_prompt: str | None
    settings: WorldDrawSettings  # with its seed
    checked: WorldRequest
    image_format: str


class EnterTicket(AcceptedRequest[Walk]):
    """An accepted request for a walk; all else as for its base."""

    def __init__(
        self,
        request: WalkRequest,
        owner: str | None,
        wake: Callable[[], None],
        on_event: Callable[[Stepped | Finished[Walk] | Failed], None] | None,
    ) -> None:
        super().__init__(wake, on_event, previews=False)
        self.request, self.owner = request, owner


class ChunkTicket(AcceptedRequest[WalkMoment]):
    """An accepted request for one chunk. on_frame: called in the drawing thread with each encoded frame."""

    def __init__(
        self,
        walk: Walk,
        chunk: WalkChunk,
        before: int,
        wake: Callable[[], None],
        on_frame: Callable[[bytes], None] | None,
        on_event: Callable[[Stepped | Finished[WalkMoment] | Failed], None] | None,
    ) -> None:
        super().__init__(wake, on_event, previews=False)
        self.walk, self.chunk, self.before, self.on_frame = walk, chunk, before, on_frame
