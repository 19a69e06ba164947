"""The engine of clips: a bounded queue, and one thread that draws clip after clip, step by step.

It stands beside the engine of images, with a thread of its own: a step of a clip may take minutes, for which
no image should wait. Callers receive the same events and futures, with a result of clips.

    clips = ClipEngine(["./sana-video"])
    clips.start()
    ticket = clips.submit(clips.check(None, "a cat waves", frames=17))
    ticket.result().save("cat.mp4")
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from typing import Any, Unpack

from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.errors import BusyError, ClosedError, ModelNotFoundError, SettingsError, StoppedError
from sanakit.pipelines.memory import parse_budget
from sanakit.pipelines.video.request import ClipDrawSettings, ClipRequest, VideoSpec, check_clip_request
from sanakit.pipelines.video.result import ClipResult, clips_of
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.serve.engine.ticket import AcceptedRequest, Failed, Finished, Stepped
from sanakit.serve.engine.worker import Worker
from sanakit.weights.find.resolve import resolve
from sanakit.wording import counted

log = logging.getLogger(__name__)

ClipEvent = Stepped | Finished[ClipResult] | Failed

_STOPPED = "The server stopped before the clip was finished: send the request again."
_FILTERED = 64  # frames that a filter looks at together


class ClipTicket(AcceptedRequest[ClipResult]):
    """An accepted request for a clip; all else as for its base."""

    def __init__(
        self,
        request: ClipRequest,
        wake: Callable[[], None],
        on_event: Callable[[ClipEvent], None] | None,
        previews: bool,
        name: str | None,
    ) -> None:
        super().__init__(wake, on_event, previews, name)
        self.request = request
        self.share = 0.0  # of its steps that are done, 0 to 1


class ClipEngine(Worker):
    """Draws the clips of many requests, one after another.

    models: folders or Hub repositories of video models; the first is the default, loaded at the start. Only
    the one that drew last stays in memory. taken: names of models that are served beside them. device, dtype,
    memory: as for `TextToVideo.from_pretrained`; what does not fit fails with MemoryLimitError when its turn
    comes. max_waiting: clips that may wait. prompt_filter, image_filter: as for `Engine`; every frame is
    looked at.
    Raises the errors of a model's settings, and SettingsError where two models share a name.
    """

    def __init__(
        self,
        models: Sequence[str],
        *,
        taken: Collection[str] = (),
        device: str = "auto",
        dtype: str = "auto",
        memory: str | int = "auto",
        max_waiting: int = 64,
        threads: int | None = None,
        prompt_filter: Callable[[list[str], str], object] | None = None,
        image_filter: Callable[[list[Image.Image], str], object] | None = None,
    ) -> None:
        super().__init__("sanakit-clips", threads)
        self.specs: dict[str, VideoSpec] = {}
        self._paths: dict[str, str] = {}
        for path in models:
            spec = VideoSpec.read(path)
            name = spec.settings.shared.name
            if name in self.specs or name in taken:
                raise SettingsError(f"Two models are named {name!r}: rename one in its sanakit.json.")
            self.specs[name], self._paths[name] = spec, path
        if not self.specs:
            raise SettingsError("No video model was named: pass at least one.")
        self.max_waiting = max_waiting
        self._placed = {"device": device, "dtype": dtype, "memory": parse_budget(memory)}
        self.prompt_filter, self.image_filter = prompt_filter, image_filter
        self._loaded: tuple[str, TextToVideo] | None = None
        self._waiting: deque[ClipTicket] = deque()
        self._running: ClipTicket | None = None
        self._counts: Counter[str] = Counter()

    @property
    def default(self) -> str:
        """The name of the model that draws where none is named."""
        return next(iter(self.specs))

    def start(self) -> None:
        """Load the default model and start to draw. MemoryLimitError: its own clip is too much already."""
        self._pipe(self.default).plan(self.check(None, "a clip"))
        self._thread.start()

    def spec(self, name: str | None) -> VideoSpec:
        """Return the facts about a model; None: the default. Raises ModelNotFoundError."""
        name = self.default if name is None else name
        if name not in self.specs:
            have = ", ".join(self.specs)
            raise ModelNotFoundError(f"There is no video model {name[:100]!r} here; there are: {have}.")
        return self.specs[name]

    def check(
        self,
        model: str | None,
        prompt: str,
        negative_prompt: str | None = None,
        **settings: Unpack[ClipDrawSettings],
    ) -> ClipRequest:
        """Check a request for one clip, in the caller's thread; settings: as for `TextToVideo.__call__`.

        Raises ModelNotFoundError, SettingsError or SizeError.
        """
        return check_clip_request(self.spec(model), prompt, negative_prompt, **settings)

    def submit(
        self,
        request: ClipRequest,
        on_event: Callable[[ClipEvent], None] | None = None,
        *,
        previews: bool = False,
        name: str | None = None,
    ) -> ClipTicket:
        """Accept a request. on_event: called in the drawing thread; must be quick.

        previews: of the clip's middle, with every step. name: the ticket's id, else a new one. Raises
        BusyError if the queue is full, ClosedError if the engine is stopping.
        """
        ticket = ClipTicket(request, self.wake, on_event, previews, name)
        with self._condition:
            self._check_open()
            if len(self._waiting) >= self.max_waiting:
                self._counts["refused"] += 1
                raise BusyError(
                    f"{counted(len(self._waiting), 'clip is', 'clips are')} already waiting: try again later."
                )
            self._waiting.append(ticket)
            self._condition.notify()
        return ticket

    def stats(self) -> dict[str, Any]:
        """Return its state: waiting, running (clips), loaded (models), and counts since the start.

        Counts: steps, clips (finished ones), failed, stopped, refused.
        """
        with self._condition:
            counts = {name: self._counts[name] for name in ("steps", "clips", "failed", "stopped", "refused")}
            loaded = [self._loaded[0]] if self._loaded else []
            running = int(self._running is not None)
            return {"waiting": len(self._waiting), "running": running, "loaded": loaded, **counts}

    # The methods below run in the drawing thread.

    def _run(self) -> None:
        while ticket := self._next():
            try:
                result = self._draw(ticket)
            except Exception as error:  # whatever it is, the others go on
                self._fail(ticket, error)
            else:
                self._counts["clips"] += 1
                ticket.tell(Finished(ticket, result))
            with self._condition:
                self._running = None
        with self._condition:  # however it ended, nobody waits for a thread that is gone
            left, self._waiting = self._waiting, deque()
        for ticket in left:
            self._fail(ticket, ClosedError(_STOPPED))

    def _next(self) -> ClipTicket | None:
        """Return the request that has waited longest; None when the engine is to end."""
        while True:
            with self._condition:
                gone = [ticket for ticket in self._waiting if ticket.stopped]
                self._waiting = deque(ticket for ticket in self._waiting if not ticket.stopped)
                if not gone:
                    if self._abandoning or (self._closing and not self._waiting):
                        return None
                    if self._waiting:
                        self._running = self._waiting.popleft()
                        return self._running
                    self._condition.wait()
            for ticket in gone:  # without the lock: listeners are told
                self._fail(ticket, StoppedError("The request was cancelled."))

    def _draw(self, ticket: ClipTicket) -> ClipResult:
        """Draw a request's clip; what stops it is looked for between two steps."""
        request, step = ticket.request, None
        if self.prompt_filter is not None:
            self.prompt_filter(request.typed, ticket.id)
        # The result tells them. Some name words of prompts, which do not belong in a server's log.
        warnings.filterwarnings("ignore", module=rf"{__name__}\Z")
        pipe = self._pipe(model_of(request))
        with closing(pipe.draw(request)) as steps:  # pyright: ignore[reportArgumentType] - a generator
            for step in steps:
                self._check_wanted(ticket)
                self._counts["steps"] += 1
                ticket.share = step.index / step.total
                preview = step.preview() if ticket.previews and step.result is None else None
                ticket.tell(Stepped(ticket, 0, step.index, step.total, preview))
        assert step is not None, "a drawing has a step"
        result = clips_of(step)
        if self.image_filter is not None:
            assert isinstance(result.clips, list), "clips were asked for"
            for frames in _frames(result.clips):
                self._check_wanted(ticket)
                self.image_filter(frames, ticket.id)
        return result

    def _pipe(self, name: str) -> TextToVideo:
        """Return a model, loading it in place of the one that drew before."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            self._loaded = name, TextToVideo.from_pretrained(self._paths[name], **self._placed)
            log.info("video model %s is loaded", name)
        return self._loaded[1]

    def _check_wanted(self, ticket: ClipTicket) -> None:
        if self._abandoning:
            raise ClosedError(_STOPPED)
        if ticket.stopped:
            raise StoppedError("The request was cancelled.")

    def _fail(self, ticket: ClipTicket, error: Exception) -> None:
        self._counts["stopped" if isinstance(error, StoppedError) else "failed"] += 1
        ticket.tell(Failed(ticket, error))


def counted_images(request: ClipRequest) -> int:
    """Return how many images a clip counts as: each latent along time is drawn as one image is."""
    return request.sampling.cells.frames


def model_of(request: ClipRequest) -> str:
    """Return the name of the model that a request is for."""
    return str(request.metadata[0]["model"])


def split_models(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the models of images and those of clips among some, told apart by their folders.

    Raises ModelNotFoundError, WeightsError.
    """
    images, clips = list[str](), list[str]()
    for path in paths:
        (clips if resolve(path, ("transformer",)).makes_clips else images).append(path)
    return images, clips


def _frames(clips: Sequence[VideoClip]) -> Iterable[list[Image.Image]]:
    for clip in clips:
        for start in range(0, len(clip.frames), _FILTERED):
            yield [Image.fromarray(frame) for frame in clip.frames[start : start + _FILTERED]]
