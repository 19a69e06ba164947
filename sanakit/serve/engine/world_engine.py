"""The engine of worlds: a few walks at a time, and one thread that draws their chunks in the order they came.

    worlds = WorldEngine("./sana-wm-streaming")
    worlds.start()
    walk = worlds.enter(worlds.check(image, "an old harbour", fov=65)).result()
    (chunk,) = walk.split(0, "w-24")
    moment = worlds.draw(walk, chunk, 0, on_frame=print).result()

Memory is bounded: so many walks, so many states of each, frames in a file. A walk that nobody uses ends.
"""

from __future__ import annotations

import logging
import secrets
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Unpack

import torch
from PIL import Image

from sanakit.errors import BusyError, ClosedError, SettingsError, StoppedError
from sanakit.images.image import Metadata, encode
from sanakit.images.opening import flatten
from sanakit.pipelines.memory import parse_budget
from sanakit.pipelines.video.request import VideoSpec
from sanakit.pipelines.world.request import FOV, check_world_request, lens_of
from sanakit.pipelines.world.world import World, WorldDrawSettings
from sanakit.serve.engine.recording import Recording
from sanakit.serve.engine.ticket import Failed, Finished, Stepped
from sanakit.serve.engine.walk import Walk, WalkChunk, WalkMoment
from sanakit.serve.engine.walk_requests import ChunkTicket, EnterTicket, WalkRequest
from sanakit.serve.engine.worker import Worker
from sanakit.weights.find.resolve import resolve
from sanakit.weights.video.settings import load_world_configs, load_world_settings
from sanakit.wording import counted

log = logging.getLogger(__name__)

MOST_WALKS = 4  # at a time
KEPT = 4  # moments of a walk that keep their state
IDLE = 600.0  # seconds after which an unused walk ends
JPEG_QUALITY = 92  # of frames
FORMATS = ("JPEG", "PNG")  # of frames
_STOPPED = "The server stopped before the chunk was finished."


class WorldEngine(Worker):
    """Draws the walks of many callers, chunk after chunk.

    model: folder or Hub repository of a world model with streaming weights. taken: names of models that are
    served beside it. device, dtype, memory: as for `World.from_pretrained`; a walk that does not fit fails
    with MemoryLimitError when it is entered. max_walks: at a time. kept: moments of each that keep their
    state. idle: seconds after which an unused walk ends. folder: for frames of walks. prompt_filter,
    image_filter: as for `Engine`; every frame is looked at.
    Raises the errors of a model's settings, and SettingsError for weights that draw whole clips.
    """

    def __init__(
        self,
        model: str,
        *,
        taken: Collection[str] = (),
        device: str = "auto",
        dtype: str = "auto",
        memory: str | int = "auto",
        max_walks: int = MOST_WALKS,
        kept: int = KEPT,
        idle: float = IDLE,
        threads: int | None = None,
        folder: Path | None = None,
        prompt_filter: Callable[[list[str], str], object] | None = None,
        image_filter: Callable[[list[Image.Image], str], object] | None = None,
    ) -> None:
        super().__init__("sanakit-worlds", threads)
        self.spec = VideoSpec.of(load_world_settings(model), *load_world_configs(model))
        self.name = self.spec.settings.shared.name
        if self.name in taken:
            raise SettingsError(f"Two models are named {self.name!r}: rename one in its sanakit.json.")
        if not self.spec.causal or self.spec.lookahead:
            raise SettingsError(
                f"{self.name} draws whole clips, in which nobody can walk: serve streaming weights with a "
                "causal autoencoder, or draw with `sana world`."
            )
        self.max_walks, self.kept, self.idle = max_walks, kept, idle
        self.prompt_filter, self.image_filter = prompt_filter, image_filter
        self._path, self._folder = model, folder
        self._placed = {"device": device, "dtype": dtype, "memory": parse_budget(memory)}
        self._walks: dict[str, Walk] = {}
        self._entering: set[EnterTicket] = set()
        self._waiting: deque[EnterTicket | ChunkTicket] = deque()
        self._running = False
        self._counts: Counter[str] = Counter()

    def start(self) -> None:
        """Load the model and start to draw. MemoryLimitError: a walk of its own size is too much already."""
        self._world = World.from_pretrained(self._path, **self._placed)
        own = self.spec.settings.shared
        self._world.plan(self.check(Image.new("RGB", (own.width, own.height)), fov=FOV).checked)
        log.info("world model %s is loaded", self.name)
        self._thread.start()

    def check(
        self,
        image: Image.Image,
        prompt: str = "",
        negative_prompt: str | None = None,
        image_format: str = FORMATS[0],
        **settings: Unpack[WorldDrawSettings],
    ) -> WalkRequest:
        """Check what a walk is to begin with, in the caller's thread; settings: as for `World.enter`.

        image_format: of its frames, JPEG or PNG. Raises SettingsError or SizeError.
        """
        if image_format not in FORMATS:
            raise SettingsError(f"Frames are sent as {' or '.join(FORMATS)}, not as {image_format!r}.")
        frames = self.spec.rule.frames(1 + self.spec.settings.chunks.length)
        still = torch.eye(4, dtype=torch.float64).expand(frames, 4, 4)  # for the size of a chunk alone
        checked = check_world_request(
            self.spec, image, prompt, negative_prompt, **{"path": still, **settings}
        )
        seed = checked.clip.sampling.seeds[0]
        return WalkRequest(
            image=flatten(image),
            prompt=prompt,
            negative_prompt=negative_prompt,
            settings={**settings, "seed": seed},
            checked=checked,
            image_format=image_format,
        )

    def enter(
        self,
        request: WalkRequest,
        owner: str | None = None,
        on_event: Callable[[Stepped | Finished[Walk] | Failed], None] | None = None,
    ) -> EnterTicket:
        """Accept a request for a walk of an owner. on_event: called in the drawing thread; must be quick.

        Raises BusyError where there are as many walks as may be, ClosedError if the engine is stopping.
        """
        ticket = EnterTicket(request, owner, self.wake, on_event)
        with self._condition:
            self._check_open()
            self._end_unused()
            if len(self._walks) + len(self._entering) >= self.max_walks:
                self._counts["refused"] += 1
                raise BusyError(
                    f"{counted(self.max_walks, 'walk is', 'walks are')} under way, as many as this server "
                    "has room for: end one, or try again later."
                )
            self._entering.add(ticket)
            self._waiting.append(ticket)
            self._condition.notify()
        return ticket

    def draw(
        self,
        walk: Walk,
        chunk: WalkChunk,
        before: int,
        on_frame: Callable[[bytes], None] | None = None,
        on_event: Callable[[Stepped | Finished[WalkMoment] | Failed], None] | None = None,
    ) -> ChunkTicket:
        """Accept a request for a chunk of a walk, from `Walk.split`. before: the moment that it begins at.

        Raises ClosedError if the engine is stopping.
        """
        ticket = ChunkTicket(walk, chunk, before, self.wake, on_frame, on_event)
        with self._condition:
            self._check_open()
            walk.used = time.monotonic()
            self._waiting.append(ticket)
            self._condition.notify()
        return ticket

    def find(self, name: str, owner: str | None) -> Walk | None:
        """Return a walk of an owner, which counts as a use of it; None where there is none."""
        with self._condition:
            walk = self._walks.get(name)
            if walk is None or walk.owner != owner:
                return None
            walk.used = time.monotonic()
            return walk

    def walks(self, owner: str | None) -> list[Walk]:
        """Return the walks of an owner, the oldest first."""
        with self._condition:
            return [walk for walk in self._walks.values() if walk.owner == owner]

    def end(self, walk: Walk) -> None:
        """End a walk and give its memory back; a chunk of it that is being drawn fails with StoppedError."""
        with self._condition:
            if self._walks.pop(walk.id, None) is not None:
                walk.end()

    def stats(self) -> dict[str, Any]:
        """Return its state: waiting, running (chunks), walks, and counts since the start.

        Counts: chunks (finished ones), failed, stopped, refused.
        """
        with self._condition:
            counts = {name: self._counts[name] for name in ("chunks", "failed", "stopped", "refused")}
            now = {"waiting": len(self._waiting), "running": int(self._running), "walks": len(self._walks)}
            return {**now, **counts}

    def close(self, drain: float = 0.0) -> None:
        """As of every engine; all walks end."""
        super().close(drain)
        for walk in list(self._walks.values()):
            self.end(walk)

    def _end_unused(self) -> None:
        """End the walks that nobody has used for a while; the condition is held."""
        last = time.monotonic() - self.idle
        for walk in [walk for walk in self._walks.values() if walk.used < last]:
            if walk.turn.acquire(blocking=False):  # a move that waits for its turn is a use
                log.info("walk %s ended: nobody used it for %g s", walk.id, self.idle)
                self.end(walk)
                walk.turn.release()

    # The methods below run in the drawing thread.

    def _run(self) -> None:
        while ticket := self._next():
            try:
                if isinstance(ticket, EnterTicket):
                    walk = self._enter(ticket)
                    ticket.tell(Finished(ticket, walk))
                else:
                    moment = self._draw(ticket)
                    self._counts["chunks"] += 1
                    ticket.tell(Finished(ticket, moment))
            except Exception as error:  # whatever it is, the others go on
                self._fail(ticket, error)
            with self._condition:
                self._running = False
        with self._condition:
            left, self._waiting = self._waiting, deque()
        for ticket in left:
            self._fail(ticket, ClosedError(_STOPPED))

    def _next(self) -> EnterTicket | ChunkTicket | None:
        """Return the request that has waited longest; None when the engine is to end."""
        while True:
            with self._condition:
                self._end_unused()
                if self._abandoning or (self._closing and not self._waiting):
                    return None
                ticket = self._waiting.popleft() if self._waiting else None
                self._running = ticket is not None and not ticket.stopped
                if ticket is None:
                    self._condition.wait(min(self.idle, 60.0) if self._walks else None)
                    continue
            if not ticket.stopped:
                return ticket
            self._fail(ticket, StoppedError("The request was cancelled."))  # without the lock

    def _enter(self, ticket: EnterTicket) -> Walk:
        asked = ticket.request
        sampling = asked.checked.clip.sampling
        if self.prompt_filter is not None:
            self.prompt_filter(asked.checked.clip.typed, ticket.id)
        # The walk tells them. Some name words of prompts, which do not belong in a server's log.
        warnings.filterwarnings("ignore", module=rf"{__name__}\Z")
        live = self._world.enter(asked.image, asked.prompt, asked.negative_prompt, undo=0, **asked.settings)
        image = Image.fromarray(live.frame)
        if self.image_filter is not None:
            self.image_filter([image], ticket.id)
        recording = Recording(self._folder)
        walk = Walk(
            f"walk_{secrets.token_hex(16)}",
            ticket.owner,
            live,
            recording,
            kept=self.kept,
            lens=lens_of(asked.settings.get("fov"), asked.settings.get("intrinsics"), asked.image.size),
            size=asked.image.size,
            most_frames=self.spec.rule.frames(self.spec.max_positions),
            metadata=_told(sampling.metadata[0], asked.settings),
            warnings=[*sampling.notes, *(note for note in live.warnings if note not in sampling.notes)],
            image_format=asked.image_format,
        )
        walk.add(None, None, recording.add(encode(image, asked.image_format, None, JPEG_QUALITY)))
        with self._condition:
            self._entering.discard(ticket)
            if ticket.stopped or self._abandoning:
                walk.end()
                raise StoppedError("The request was cancelled.")
            self._walks[walk.id] = walk
        return walk

    def _draw(self, ticket: ChunkTicket) -> WalkMoment:
        """Draw a chunk; its frames are encoded, recorded and told one by one."""
        walk = ticket.walk

        def check() -> None:
            if self._abandoning:
                raise ClosedError(_STOPPED)
            if ticket.stopped or walk.ended:
                raise StoppedError("The request was cancelled.")

        frames = walk.draw(ticket.chunk, ticket.before, check)
        images = [Image.fromarray(frame) for frame in frames]
        if self.image_filter is not None:
            self.image_filter(images, ticket.id)
        numbers = []
        for image in images:
            data = encode(image, walk.image_format, None, JPEG_QUALITY)
            numbers.append(walk.recording.add(data))
            if ticket.on_frame is not None:
                ticket.on_frame(data)
        walk.used = time.monotonic()
        return walk.add(ticket.chunk, ticket.before, numbers[0])

    def _fail(self, ticket: EnterTicket | ChunkTicket, error: Exception) -> None:
        self._counts["stopped" if isinstance(error, StoppedError) else "failed"] += 1
        if isinstance(ticket, EnterTicket):
            with self._condition:
                self._entering.discard(ticket)
        ticket.tell(Failed(ticket, error))


def split_worlds(paths: Collection[str]) -> tuple[list[str], str | None]:
    """Return the models of images and clips among some, and that of worlds, of which there is one at most.

    Raises ModelNotFoundError, WeightsError, and SettingsError for two models of worlds.
    """
    worlds = [path for path in paths if resolve(path, ("transformer",)).makes_worlds]
    if len(worlds) > 1:
        raise SettingsError(f"{' and '.join(worlds)} are models of worlds: a server has one, so name one.")
    return [path for path in paths if path not in worlds], worlds[0] if worlds else None


def _told(metadata: Metadata, settings: WorldDrawSettings) -> Metadata:
    """Return the settings of a walk: those of a clip, less what is of a known path."""
    found = {name: value for name, value in metadata.items() if name not in ("path", "frames")}
    return {**found, "keys": settings.get("keys", "turning")}
