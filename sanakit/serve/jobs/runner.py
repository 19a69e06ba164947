"""Run the stored jobs: claim them while there is room, pass them to the engine, store what it drew.

One thread does all of it but the drawing. Each round settles what is drawn, renews leases, notices cancelled
jobs and claims new ones; every step can be repeated, so a missing database or a full disk only makes it wait.
A job that is drawn twice (because its server was killed) writes the same images to the same names. Only the
claim's holder may finish it. Clips have an engine of their own, and do not keep images from being claimed,
but for one that a server was killed with.
"""

from __future__ import annotations

import io
import logging
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from sanakit.errors import (
    BusyError,
    ClosedError,
    MemoryLimitError,
    OutputError,
    SanaError,
    SettingsError,
    StorageError,
)
from sanakit.images.image import encode
from sanakit.images.opening import open_image
from sanakit.pipelines.result import Result
from sanakit.pipelines.video.result import ClipResult
from sanakit.serve.engine.decoding import header_size
from sanakit.serve.engine.enlarging import Enlargements
from sanakit.serve.engine.ticket import Stepped
from sanakit.serve.jobs.clip_files import clip_file
from sanakit.serve.jobs.database import now
from sanakit.serve.jobs.job import CONTROL, FORMAT, INPUTS, TOLD, UPSCALE, VIDEO, Job
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.storage import ImageStore

if TYPE_CHECKING:
    from sanakit.clips.clip import VideoClip
    from sanakit.serve.engine.clip_engine import ClipEngine, ClipTicket
    from sanakit.serve.engine.engine import Engine, Ticket

LEASE = 60.0  # seconds
POLL = 1.0  # seconds between two looks at the database while nothing happens
IMAGES_AT_ONCE = 16  # of claimed jobs; the engine's batches take that many by default

_EXPIRY_EVERY, _SWEEP_EVERY = 600.0, 3600.0  # seconds
_AFTER = (FORMAT, TOLD, UPSCALE)  # entries of a job's body that say what becomes of what is drawn
_UNEXPECTED = "The server failed to draw this; its log has details."

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """A claimed job."""

    job: Job
    ticket: Ticket | ClipTicket | None = None
    enlarging: Enlargements | None = None  # its images, once they are drawn
    busy: bool = False  # the engine had no room for it
    error: Exception | None = None  # why it cannot be drawn


class JobRunner:
    """The thread between the job store and the engine.

    clips: draws the videos; without it they wait for a server that has one, as images do for an engine with
    models. owner: `Instance.name`, the same after a restart. lease, poll: seconds. images_at_once: of claimed
    jobs together; a larger job runs alone. keep: how long ended jobs and their images stay; None: for ever.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: JobStore,
        store: ImageStore,
        owner: str,
        *,
        clips: ClipEngine | None = None,
        lease: float = LEASE,
        poll: float = POLL,
        images_at_once: int = IMAGES_AT_ONCE,
        keep: timedelta | None = None,
    ) -> None:
        self._engine, self._clips, self._jobs, self._store, self._owner = engine, clips, jobs, store, owner
        self._lease, self._poll, self._most, self._keep = lease, poll, images_at_once, keep
        self._held: dict[str, _Held] = {}
        self._renewed = self._expired = self._swept = -float("inf")
        self._recovered = False
        self._trouble = ""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="sana-jobs", daemon=True)

    @property
    def trouble(self) -> str:
        """The sentence of what keeps the runner from its work now; empty if nothing does."""
        return self._trouble

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin: first with the jobs that this owner had when it was killed."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the database now: a job was added or cancelled. Cheap; from any thread."""
        self._wake.set()

    def close(self, drain: float = 0.0) -> int:
        """Claim no more; finish what is held within `drain` seconds and put the rest back into the queue.

        Gives how many went back; those that cannot be put back are found at the next start. Call it before
        the engine's own close.
        """
        self._deadline = time.monotonic() + drain
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        return len(self._held)

    def _run(self) -> None:
        while not self._closing.is_set() or (self._held and time.monotonic() < self._deadline):
            self._wake.clear()
            try:
                self._round()
                self._report("")
            except (StorageError, OutputError) as error:
                self._report(str(error))
            except Exception as error:
                log.exception("The job runner hit an error; it continues.")
                self._report(f"{type(error).__name__} in the job runner; its log has details.")
            if self._closing.is_set():
                self._wake.wait(min(self._poll, max(0.0, self._deadline - time.monotonic())))
            else:  # in trouble it is not woken early: each try may wait long for the database
                (self._closing if self._trouble else self._wake).wait(self._poll)
        self._let_go()

    def _round(self) -> None:
        """Do all that can be done now. Raises StorageError or OutputError where some of it could not."""
        if not self._recovered:
            if again := self._jobs.recover(self._owner):
                log.info("%d jobs were interrupted and will be drawn again.", again)
            self._recovered = True
        failed = [error for held in [*self._held.values()] if (error := self._try(held))]
        self._keep_claims()
        self._tell_progress()
        if not self._closing.is_set():
            failed += self._claim()
            self._expire()
            self._sweep()
        if failed:
            raise failed[0]

    def _keep_claims(self) -> None:
        """Renew the leases when a third of their time is over; let go of what was cancelled or taken over."""
        if self._held and time.monotonic() - self._renewed > self._lease / 3:
            self._jobs.renew(self._owner, list(self._held), self._lease)
            self._renewed = time.monotonic()
        claimed = self._jobs.held(self._owner)
        for lost in self._held.keys() - claimed:
            held = self._held.pop(lost)
            if held.ticket is not None:
                held.ticket.cancel()
        # Claimed, but the answer never came here: the connection broke at the commit.
        if unknown := claimed - self._held.keys():
            self._jobs.release(self._owner, unknown)

    def _tell_progress(self) -> None:
        """Note in the database how far the video is, if it went on since the last round."""
        for held in self._held.values():
            if held.job.kind == VIDEO and held.ticket is not None and not held.ticket.done:
                percent = int(99 * cast("ClipTicket", held.ticket).share)  # 100 once the file is stored
                if percent > held.job.progress:
                    self._jobs.tell_progress(held.job.id, self._owner, percent)
                    held.job.progress = percent

    def _claim(self) -> list[StorageError | OutputError]:
        """Claim jobs and submit them until there is no room, none waits, or the engine is busy.

        A job whose images cannot be read or stored now keeps its place and stops no other. One that a
        server was killed with is drawn with no later ones: if it was the cause, they lose no attempt.
        """
        failed = []
        while not self._closing.is_set():
            if any(held.job.attempts > 1 for held in self._held.values()):
                break
            drawn = [held for held in self._held.values() if held.job.kind != VIDEO]
            room = bool(self._engine.specs) and not any(held.busy for held in drawn)
            images = room and sum(held.job.pictures for held in drawn) < self._most
            videos = self._clips is not None and len(drawn) == len(self._held)  # one at a time
            job = self._jobs.claim(self._owner, self._lease, images=images, videos=videos)
            if job is None:
                break
            self._held[job.id] = held = _Held(job)
            if error := self._try(held):
                failed.append(error)
        return failed

    def _try(self, held: _Held) -> StorageError | OutputError | None:
        """Advance a held job as far as possible; return the error that means "later"."""
        try:
            self._advance(held)
        except (StorageError, OutputError) as error:
            return error
        return None

    def _advance(self, held: _Held) -> None:
        try:
            if held.error is None and (drawn := self._drawn(held)) is not None:
                self._settle(held.job, drawn)
        except (StorageError, OutputError):
            raise
        except BusyError:
            held.busy = True
        except ClosedError:  # for good: there is nothing left to do here
            self._closing.set()
        except Exception as error:
            held.error = error
        if held.error is not None:
            self._fail(held.job, held.error)

    def _drawn(self, held: _Held) -> Result | ClipResult | None:
        """Submit a job if it is not, and return what the engine drew, enlarged where the job says so.

        None: it is being drawn. Raises what it failed with, and BusyError, ClosedError.
        """
        engine: Any = self._clips if held.job.kind == VIDEO else self._engine
        factor = held.job.body.get(UPSCALE)
        while held.ticket is None or held.ticket.done:
            if held.ticket is None:
                held.busy = False
                request = held.enlarging.request() if held.enlarging else self._request(held.job)
                if held.enlarging is not None and request is None:
                    return held.enlarging.result()
                held.ticket = engine.submit(request, self._told, name=held.job.id)
                continue
            drawn = held.ticket.result()
            if factor is None or isinstance(drawn, ClipResult):
                return drawn
            if held.enlarging is None:
                held.enlarging = Enlargements(self._engine, drawn, factor)
            else:
                held.enlarging.take(drawn)
            held.ticket = None
        return None

    def _told(self, event: object) -> None:
        """Wake for the end of a drawing: its steps change nothing here, and a round asks the database."""
        if not isinstance(event, Stepped):
            self._wake.set()

    def _request(self, job: Job) -> Any:
        """Check a job's settings again, with its images in place of their names."""
        engine: Any = self._clips if job.kind == VIDEO else self._engine
        settings = {name: value for name, value in job.body.items() if name not in _AFTER}
        files = {field: self._file(name) for field in INPUTS if (name := settings.get(field))}
        shown = [(one, self._file(one["image"])) for one in settings.get(CONTROL) or ()]
        counted = [files[field] for field in INPUTS[:1] if field in files] + [file for _, file in shown]
        with self._engine.decoding.turn(sum(math.prod(header_size(file)) for file in counted)):
            for field, file in files.items():
                settings[field] = open_image(file, f"The image {settings[field]} of this job")
            if shown:
                settings[CONTROL] = [
                    one | {"image": open_image(file, f"The image {one['image']} of this job")}
                    for one, file in shown
                ]
            return engine.check(**settings)

    def _file(self, name: str) -> io.BytesIO:
        """Read an image that a job was given. Raises SettingsError, StorageError."""
        try:
            return io.BytesIO(self._store.get(name))
        except LookupError as error:
            raise SettingsError(f"{error} This job needs it as its input.") from None

    def _settle(self, job: Job, result: Result | ClipResult) -> None:
        """Store a job's images or its clip, then say that it is finished."""
        rows = []
        for name, (data, notes), metadata in zip(
            job.result_names(), self._files(job, result), result.metadata, strict=True
        ):
            self._store.put(name, data)
            row = {"name": name, "bytes": len(data), "metadata": dict(metadata)}
            told = [*dict.fromkeys([*result.warnings, *notes])]
            rows.append(row | ({"warnings": told} if told else {}))
        if not self._jobs.finish(job.id, self._owner, rows):
            log.info("%s was cancelled or taken over while it was drawn.", job.id)
            if not self._jobs.exists(job.id):  # deleted, with the files that it had then
                for name in job.result_names():
                    self._store.delete(name)
        self._held.pop(job.id, None)

    def _files(self, job: Job, result: Result | ClipResult) -> Iterator[tuple[bytes, list[str]]]:
        """Yield the files of a job, and notes on each."""
        if isinstance(result, ClipResult):
            for clip in cast("list[VideoClip]", result.clips):
                yield clip_file(clip, job.body[FORMAT])
            return
        for image, metadata in zip(cast("list[Image.Image]", result.images), result.metadata, strict=True):
            yield encode(image, "PNG", metadata), []

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, SanaError):
            message, kind = str(error), type(error).__name__
            if isinstance(error, MemoryLimitError):  # whose remedy is the operator's
                log.warning("%s failed: %s", job.id, message)
        else:
            log.error("%s failed.", job.id, exc_info=error)
            message, kind = _UNEXPECTED, "server_error"
        self._jobs.fail(job.id, self._owner, message, kind)
        self._held.pop(job.id, None)

    def _expire(self) -> None:
        if self._keep is not None and time.monotonic() - self._expired > _EXPIRY_EVERY:
            deleted = self._jobs.delete_before(now() - self._keep, self._store.delete)
            if deleted:
                log.info("%d jobs were deleted: they ended more than %s ago.", deleted, self._keep)
            self._expired = time.monotonic()

    def _sweep(self) -> None:
        """Delete what killed servers left in the store: images of no job, such as its uploads alone."""
        if time.monotonic() - self._swept > _SWEEP_EVERY:
            self._swept = time.monotonic()
            left = [name for name in self._jobs.unused(self._store.names("job_")) if self._store.is_old(name)]
            for name in left:
                self._store.delete(name)
            self._store.sweep()
            if left:
                log.info("%d images were deleted: they are of no job.", len(left))

    def _let_go(self) -> None:
        """Stop what is still drawn and release its claims."""
        for held in self._held.values():
            if held.ticket is not None:
                held.ticket.cancel()
        try:
            if self._held:
                self._jobs.release(self._owner, list(self._held))
        except StorageError as error:
            log.warning("%d jobs could not be put back: %s", len(self._held), error)

    def _report(self, trouble: str) -> None:
        """Log what is wrong when it begins and when it ends, not at each try."""
        if trouble and not self._trouble:
            log.warning("Jobs wait: %s", trouble)
        if self._trouble and not trouble:
            log.warning("Jobs go on.")
        self._trouble = trouble
