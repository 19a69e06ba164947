"""The work of the tab of clips from button to clip: submit, follow, keep, stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import cast

from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.pipelines.video.request import ClipRequest
from sanakit.pipelines.video.result import ClipResult
from sanakit.serve.engine.clip_engine import ClipEngine, ClipEvent, ClipTicket
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.http.videos.reading import check_bytes
from sanakit.serve.jobs.clip_files import check_format, clip_file, usual_format
from sanakit.serve.web.history import History
from sanakit.serve.web.studio import TabDrawings, View
from sanakit.serve.web.video.settings import ClipWish

STRIP = 8  # frames that are shown of a finished clip
_STRIP_SIDE = 192  # pixels of the longer side


class ClipStudio:
    """The work behind the tab. clips: shared with the API. turns: for decoding visitors' images."""

    def __init__(self, clips: ClipEngine, history: History, turns: DecodingTurns) -> None:
        self.clips, self.history, self._turns = clips, history, turns
        self._drawings = TabDrawings(turns.threads)

    def draw(self, session: str, room: str, wish: ClipWish) -> AsyncGenerator[View, None]:
        """Draw what is wished, as `TabDrawings.follow` does. room: where the clip is kept.

        The last view has the clip's name, and some of its frames as previews.
        """

        def submit(on_event: Callable[[ClipEvent], None]) -> ClipTicket:
            # A clip that is not done yet has not been looked at by the filter.
            return self.clips.submit(self._check(wish), on_event, previews=self.clips.image_filter is None)

        def keep(result: ClipResult) -> View:
            clip = cast("list[VideoClip]", result.clips)[0]
            format = usual_format()
            data, notes = clip_file(clip, format)
            name = self.history.add_file(room, data, format)
            told = [*result.warnings, *notes]
            return View(
                state="done", message="", done=1.0, names=[name], previews=[*strip_of(clip)], warnings=told
            )

        return self._drawings.follow(session, 1, submit, keep)

    def cancel(self, session: str) -> None:
        """Stop what a session draws, within one step; nothing where nothing is drawn."""
        self._drawings.cancel(session)

    def _check(self, wish: ClipWish) -> ClipRequest:
        with self._turns.turn(wish.image.width * wish.image.height if wish.image else 0):
            drawn = self.clips.check(**wish.words())
        check_bytes(drawn)
        height, width = drawn.sampling.size
        check_format(usual_format(), width=width, height=height, rate=drawn.rate, settings=drawn.metadata[0])
        return drawn


def strip_of(clip: VideoClip) -> list[Image.Image]:
    """Return at most STRIP frames of a clip, evenly from the first to the last, small."""
    count = min(STRIP, len(clip.frames))
    last = len(clip.frames) - 1
    images = []
    for number in range(count):
        image = Image.fromarray(clip.frames[number * last // max(1, count - 1)])
        image.thumbnail((_STRIP_SIDE, _STRIP_SIDE), Image.Resampling.LANCZOS)
        images.append(image)
    return images
