"""Live drawings: each tab has one, and the newest key wins.

A newer key cancels what its tab draws, which ends within a step. A key that comes late, after a newer one, is
not drawn. So a tab never has more than one image in the engine, however fast somebody types, and takes its
turn among all others there. Its last image is held in memory until the tab draws again, and is stored only
when somebody keeps it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from PIL import Image

from sanakit.errors import RefusedError, SettingsError, StoppedError
from sanakit.images.image import Metadata
from sanakit.pipelines.request import Request
from sanakit.serve.engine.engine import Engine, Stepped
from sanakit.serve.http.drawing import Drawing

MOST_TABS = 256  # that are remembered; of more, those that drew longest ago are forgotten

Charge = Callable[[], Callable[[], None]]
"""Counts an image for its visitor and returns what takes that back; blocks. Raises SanaError."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An image at one moment of its drawing. final: it is done."""

    image: Image.Image
    step: int
    total: int
    final: bool
    seconds: float  # since the key arrived
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Tab:
    newest: int = -1  # number of its newest key
    drawing: Drawing | None = None
    drawn: tuple[int, Image.Image, Metadata] | None = None  # what was finished last, and its number


class LiveDrawings:
    """The drawings of all tabs, by a name that only the tab knows."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tabs: OrderedDict[str, _Tab] = OrderedDict()

    async def draw(
        self, name: str, number: int, check: Callable[[], Request], charge: Charge | None = None
    ) -> AsyncGenerator[Frame, None]:
        """Draw the image of a key; yield it after every step. It ends without a final frame once a newer
        key of the tab came.

        check: makes the request; blocks, and is called in a thread. Raises what that, the engine and `charge`
        raise. Closing the generator cancels the drawing.
        """
        began, tab = time.perf_counter(), self._tab(name)
        if number <= tab.newest:
            return
        tab.newest = number
        if tab.drawing is not None:
            tab.drawing.ticket.cancel()
        take_back = None if charge is None else await asyncio.to_thread(charge)
        finished = False
        try:
            request = await asyncio.get_running_loop().run_in_executor(self.engine.decoding.threads, check)
            if number != tab.newest:
                return
            # An image that is not done yet has not been looked at by the filter.
            partial_images = 0 if self.engine.image_filter is not None else request.steps - 1
            with Drawing(self.engine, request, partial_images=partial_images, whole=False) as tab.drawing:
                async for event in tab.drawing.events():
                    if number != tab.newest:
                        return
                    seconds = time.perf_counter() - began
                    if isinstance(event, Stepped):
                        assert event.preview is not None
                        yield Frame(event.preview, event.index, event.total, False, seconds)
                        continue
                    image, total = event.images[0], request.steps
                    assert isinstance(image, Image.Image)
                    tab.drawn, finished = (number, image, event.metadata[0]), True
                    yield Frame(image, total, total, True, seconds, tuple(event.warnings))
        except StoppedError:
            if number == tab.newest:
                raise
        except RefusedError:
            finished = True  # it was drawn, and the filter said no: as with other drawings, it counts
            raise
        finally:
            if take_back is not None and not finished:  # not waited for: a visitor who left cancels waiting
                asyncio.get_running_loop().run_in_executor(None, take_back)

    def drawn(self, name: str, number: int) -> tuple[Image.Image, Metadata]:
        """Return the image of a tab's key, if it was the last that was finished. Raises SettingsError."""
        tab = self._tabs.get(name)
        if tab is None or tab.drawn is None or tab.drawn[0] != number:
            raise SettingsError("This image is not there any more: type a letter, and keep the next one.")
        return tab.drawn[1], tab.drawn[2]

    def _tab(self, name: str) -> _Tab:
        """Return a tab, the newest now; forget the one that drew longest ago where there are too many."""
        tab = self._tabs.setdefault(name, _Tab())
        self._tabs.move_to_end(name)
        if len(self._tabs) > MOST_TABS:
            _, oldest = self._tabs.popitem(last=False)
            if oldest.drawing is not None:
                oldest.drawing.ticket.cancel()
        return tab
