"""The work of the page from button to image: submit, follow, keep, stop.

`Studio` joins an engine and a history; `TabDrawings` follows images and clips alike. Neither knows a
component of Gradio. The engine calls back in its compute
thread, the page runs on an event loop: events cross over by `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from sanakit.errors import RefusedError, SanaError, SettingsError, StoppedError
from sanakit.images.opening import MAX_PIXELS, open_image
from sanakit.pipelines.inpaint import expand
from sanakit.pipelines.request import Request
from sanakit.pipelines.result import Result
from sanakit.pipelines.upscale.redraw import Enlargement
from sanakit.serve.engine.clip_engine import ClipEvent
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.enlarging import enlargement_of
from sanakit.serve.engine.ticket import AcceptedRequest, Drawn, Event, Failed, Finished, Ticket
from sanakit.serve.http.failures import setting_of
from sanakit.serve.web.history import History
from sanakit.serve.web.settings import Wish, styles

log = logging.getLogger(__name__)

WHOLE, PAINTED, BEYOND = "Whole image", "Painted area", "Beyond the edges"
MOST_MARGIN = 2048  # pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """An image to start from, and the part that may change."""

    image: Image.Image
    mask: Image.Image | None = None  # white: painted over
    what: str = WHOLE
    strength: float | None = None  # as for `Engine.check`
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixels to the left, top, right and bottom

    @property
    def pixels(self) -> int:
        """The pixels of the image, with its margins where they are drawn."""
        left, top, right, bottom = self.margins if self.what == BEYOND else (0, 0, 0, 0)
        return min(MAX_PIXELS, (self.image.width + left + right) * (self.image.height + top + bottom))

    def words(self) -> dict[str, Any]:
        """Return the keyword arguments of `Engine.check`. Raises SettingsError."""
        if self.what == WHOLE:
            return {"image": self.image, "strength": self.strength}
        if self.what == PAINTED:
            if self.mask is None or self.mask.getbbox() is None:
                sentence = "Paint over the area to redraw, or choose “Whole image”."
                raise SettingsError(sentence, setting="what")
            return {"image": self.image, "mask": self.mask, "strength": self.strength}
        if not any(self.margins) or not all(0 <= margin <= MOST_MARGIN for margin in self.margins):
            sentence = f"Set at least one margin, each from 0 to {MOST_MARGIN} pixels."
            raise SettingsError(sentence, setting="left")
        left, top, right, bottom = self.margins
        if (self.image.width + left + right) * (self.image.height + top + bottom) > MAX_PIXELS:
            sentence = "The image with its margins is too large: make the margins smaller."
            raise SettingsError(sentence, setting="left")
        image, mask = expand(self.image, left, top, right, bottom)
        return {"image": image, "mask": mask, "strength": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The page's content at one moment of drawing."""

    state: str  # waiting | drawing | done | stopped | failed
    message: str
    done: float = 0.0  # part of the steps, 0 to 1
    previews: list[Image.Image | None] = field(default_factory=list)  # one per image
    names: list[str] = field(default_factory=list)  # of the finished images in the history
    warnings: list[str] = field(default_factory=list)
    free: bool = False  # whether it failed through no doing of the visitor: nothing is charged
    setting: str = ""  # that was refused, by the name of its argument

    @classmethod
    def failed(cls, error: SanaError) -> View:
        """Return the content that tells an error."""
        free = not isinstance(error, RefusedError)
        return cls(state="failed", message=str(error), free=free, setting=setting_of(error))


class TabDrawings:
    """The drawings of browser tabs, one a tab. threads: where requests are checked."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._running: dict[str, AcceptedRequest[Any]] = {}  # by visitor's session

    async def follow(
        self,
        session: str,
        count: int,
        submit: Callable[[Callable[[Event | ClipEvent], None]], AcceptedRequest[Drawn]],
        keep: Callable[[Drawn], View],
    ) -> AsyncGenerator[View, None]:
        """Draw, and tell how it goes; the last view is done, stopped or failed.

        session: one browser tab. count: images that are shown. submit: checks and submits the request, given
        what listens to it; blocks. keep: keeps what was drawn, and returns the last view; blocks.
        Nothing that a visitor can cause is raised: errors are views. Closing the iterator cancels the work.
        """
        events: asyncio.Queue = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_event(event: Event | ClipEvent) -> None:
            with suppress(RuntimeError):  # the loop has ended before the engine
                loop.call_soon_threadsafe(events.put_nowait, event)

        began = time.monotonic()
        yield View(state="waiting", message="Getting ready", previews=[None] * count)
        ticket = None
        try:
            # Checking decodes, scales and hashes the visitor's images: not on the loop that serves all.
            ticket = await loop.run_in_executor(self._threads, submit, on_event)
            self._running[session] = ticket
            async for seen in _seen(events, count):
                if isinstance(seen, View):
                    yield seen
                    continue
                last = await asyncio.to_thread(keep, seen)
                yield replace(last, message=f"Drawn in {time.monotonic() - began:.1f} s.")
        except StoppedError:
            yield View(state="stopped", message="Stopped.")
        except SanaError as error:
            yield View.failed(error)
        except Exception:
            log.exception("drawing failed")
            sentence = "Something went wrong on the server; its log has details."
            yield View(state="failed", message=sentence, free=True)
        finally:
            if ticket is not None:
                ticket.cancel()  # nothing, if it is done
                if self._running.get(session) is ticket:
                    del self._running[session]

    def cancel(self, session: str) -> None:
        """Stop what a session draws, within one step; nothing where nothing is drawn."""
        ticket = self._running.get(session)
        if ticket is not None:
            ticket.cancel()

    def is_drawing(self, session: str) -> bool:
        """Return whether a session draws already."""
        return session in self._running


class Studio:
    """The work behind the page. engine: shared with the API, if there is one."""

    def __init__(self, engine: Engine, history: History) -> None:
        self.engine = engine
        self.history = history
        self._drawings = TabDrawings(engine.decoding.threads)

    def draw(
        self, session: str, room: str, wish: Wish, edit: Edit | None = None
    ) -> AsyncGenerator[View, None]:
        """Draw what is wished, as `TabDrawings.follow` does. room: where the images are kept."""

        def submit(on_event: Callable[[Event | ClipEvent], None]) -> Ticket:
            # An image that is not done yet has not been looked at by the filter.
            previews = self.engine.image_filter is None
            return self.engine.submit(self.check(wish, edit), on_event, previews=previews)

        def keep(result: Result) -> View:
            names = self._keep(room, result)
            return View(state="done", message="", done=1.0, names=names, warnings=result.warnings)

        return self._drawings.follow(session, _count(wish), submit, keep)

    def cancel(self, session: str) -> None:
        """Stop what a session draws, within one step; nothing where nothing is drawn."""
        self._drawings.cancel(session)

    def is_drawing(self, session: str) -> bool:
        """Return whether a session draws already."""
        return self._drawings.is_drawing(session)

    def enlarge(
        self, session: str, room: str, model: str, name: str, factor: float, adapters: Mapping[str, float]
    ) -> AsyncGenerator[View, None]:
        """Enlarge an image of a room's, as `TabDrawings.follow` does.

        factor: of its sides. adapters: weights by name, of those that the model redraws it with.
        """
        plans: list[Enlargement] = []

        def submit(on_event: Callable[[Event | ClipEvent], None]) -> AcceptedRequest[Result]:
            file, made = self.history.file(room, name), self.history.metadata(room, name)
            width, height = header_size(file)
            with self.engine.decoding.turn(round(width * height * (1 + factor * factor))):
                spec = self.engine.residence.adapted(model, adapters)
                plan = enlargement_of(spec, open_image(file, "The image"), made, factor)
            plans.append(plan)
            if plan.request is not None:
                previews = self.engine.image_filter is None
                return self.engine.submit(plan.request, on_event, previews=previews)
            ticket = AcceptedRequest[Result](lambda: None, on_event, previews=False)
            ticket.tell(Finished(ticket, plan.result))
            return ticket

        def keep(result: Result) -> View:
            larger = result if plans[0].request is None else plans[0].finished(result)
            names = self._keep(room, larger)
            return View(state="done", message="", done=1.0, names=names, warnings=larger.warnings)

        return self._drawings.follow(session, 1, submit, keep)

    def check(self, wish: Wish, edit: Edit | None) -> Request:
        """Check what is wished; blocks for a moment. Raises SanaError."""
        spec = self.engine.specs.get(wish.model)
        words = wish.words(styles(spec) if spec else {})
        shown = sum(one["image"].width * one["image"].height for one in wish.control)
        with self.engine.decoding.turn(shown + (edit.pixels if edit else 0)):
            if edit is None:
                return self.engine.check(wish.model, **words, width=wish.width, height=wish.height)
            return self.engine.check(wish.model, **words, **edit.words())

    def _keep(self, room: str, result: Result) -> list[str]:
        images = [image for image in result.images if isinstance(image, Image.Image)]
        return [
            self.history.add(room, image, metadata)
            for image, metadata in zip(images, result.metadata, strict=True)
        ]


async def _seen(events: asyncio.Queue, count: int) -> AsyncIterator[Any]:
    """Yield views of the progress, then the result. Raises what the drawing failed with.

    Events that came while the browser was busy are shown together.
    """
    previews: list[Image.Image | None] = [None] * count
    steps = [0] * count
    while True:
        arrived = [await events.get()]
        while not events.empty():
            arrived.append(events.get_nowait())
        for event in arrived:
            if isinstance(event, Finished):
                yield event.result
                return
            if isinstance(event, Failed):
                raise event.error
            steps[event.number] = event.index
            previews[event.number] = event.preview or previews[event.number]
        total = arrived[-1].total
        yield View(
            state="drawing",
            message=f"Step {min(steps) or max(steps)} of {total}",
            done=sum(steps) / (count * total),
            previews=list(previews),
        )


def _count(wish: Wish) -> int:
    return max(1, min(int(wish.num_images), 64))


async def charged(
    drawing: AsyncGenerator[View, None], charge: Callable[[], Callable[[], None]] | None
) -> AsyncGenerator[View, None]:
    """Yield the views of a drawing that is charged for first, and not in the end if it is free.

    charge: raises SanaError if it is too much, and returns what takes it back; None: nothing is charged.
    """
    take_back: Callable[[], None] | None = None
    if charge is not None:
        try:
            take_back = await asyncio.to_thread(charge)
        except SanaError as error:
            yield View.failed(error)
            return
    async with aclosing(drawing) as views:
        async for view in views:
            if take_back is not None and view.free:
                await asyncio.to_thread(take_back)
            yield view
