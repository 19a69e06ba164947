"""Jobs that outlive the process: accepted once, stored at once, finished once.

A job is queued -> running -> finished | failed | cancelled. The server that runs it holds a claim: its own
name and a lease that it renews. A job whose lease has ended, or whose owner was restarted, goes back to the
queue. Only the owner of the claim may finish the job, so none is finished twice.

A row that makes no sense (a damaged disk, another program) is told in a sentence, as a failed job, and the
others go on. It is left as it is: its images are not swept, and it is never deleted as an old one.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from os import PathLike
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from sanakit.errors import RefusedError, SettingsError
from sanakit.serve.jobs.columns import damage, mended
from sanakit.serve.jobs.database import Database, now
from sanakit.serve.jobs.job import (
    CANCELLED,
    FAILED,
    FINISHED,
    ID,
    KINDS,
    QUEUED,
    RUNNING,
    STATUSES,
    VIDEO,
    Job,
    new_job_id,
    sentence,
    wrong,
)
from sanakit.serve.jobs.keys import KeyUsage

MAX_ATTEMPTS = 3  # a job that kills the process must not do so for ever
MAX_LISTED = 1000

_AT_ONCE = 500  # jobs that are looked up together
_LONGEST_LEASE = timedelta(days=1)  # a later end of one makes no sense: its owner renews it all the time

log = logging.getLogger(__name__)


class JobStore:
    """The jobs in a database. Every method may raise StorageError, after a bounded wait.

    url: as `Database` takes it, or a Database that is shared with the keys.
    """

    def __init__(self, url: str | PathLike[str] | Database) -> None:
        self.database = url if isinstance(url, Database) else Database(url)
        self._told: set[int] = set()  # numbers of damaged rows that were logged

    def add(
        self,
        kind: str,
        body: dict[str, Any],
        key_id: str | None,
        num_images: int,
        *,
        job_id: str | None = None,
    ) -> Job:
        """Store an accepted request; when this returns it is on the disk.

        body: arguments of the engine's `check` as JSON, its seed fixed; images of `INPUTS` by name in the
        store; of a video also FORMAT, one of MEDIA_TYPES, and TOLD, notes on the request. num_images: how
        many it makes, or a clip counts as. job_id: of `new_job_id`, where inputs were stored under it before.
        """
        if job_id is not None and not ID.fullmatch(job_id):
            raise SettingsError(f"{job_id!r} is not a job id: use new_job_id().")
        job = Job(
            id=job_id or new_job_id(),
            kind=kind,
            body=body,
            key_id=key_id,
            pictures=num_images,
            created=now(),
        )
        with self.database.writing() as session:
            session.add(job)
        return job

    def get(self, job_id: str, key_id: str | None, *, video: bool = False) -> Job | None:
        """Return the job of that id if it is that key's (None: made without a key), else None.

        video: look among the jobs that make clips; otherwise among those that make images.
        """
        if not ID.fullmatch(job_id):
            return None
        with self.database.reading() as session:
            job = session.scalar(select(Job).where(_owned(key_id, video), Job.id == job_id))
        return None if job is None else self._sound(job)

    def list(
        self,
        key_id: str | None,
        limit: int = 20,
        before: str | None = None,
        *,
        video: bool = False,
        oldest_first: bool = False,
    ) -> list[Job]:
        """Return a key's jobs, newest first: at most `limit`, all older than the job `before`.

        video: as for `get`. oldest_first: turn the order round; `before` is then the job before the first.
        """
        order = Job.number if oldest_first else Job.number.desc()
        query = select(Job).where(_owned(key_id, video)).order_by(order)
        if before is not None:
            if not ID.fullmatch(before):
                return []
            last = select(Job.number).where(Job.id == before, Job.key_id == key_id).scalar_subquery()
            query = query.where(Job.number > last if oldest_first else Job.number < last)
        with self.database.reading() as session:
            found = [self._sound(job) for job in session.scalars(query.limit(min(max(limit, 1), MAX_LISTED)))]
        return [job for job in found if ID.fullmatch(job.id)]  # nobody can ask for another one

    def counts(self) -> dict[str, int]:
        """Return the number of jobs of each status."""
        with self.database.reading() as session:
            found = session.execute(select(Job.status, func.count()).group_by(Job.status))
            none = dict.fromkeys(STATUSES, 0)
            return none | {status: count for status, count in found if status in none}

    def claim(
        self, owner: str, lease_seconds: float, *, images: bool = True, videos: bool = False
    ) -> Job | None:
        """Take the oldest job that waits, of these kinds, for so long; None if there is none.

        No two callers get the same job, in any number of processes: PostgreSQL locks its row and lets others
        skip it, SQLite has one writer at a time. Jobs whose lease another owner let pass wait again. One
        that makes no sense fails with the reason, and the next one is taken.
        """
        wanted = ((Job.kind != VIDEO) & images) | ((Job.kind == VIDEO) & videos)
        oldest = select(Job.number).where(Job.status == QUEUED, wanted).order_by(Job.number).limit(1)
        values = {
            "status": RUNNING,
            "owner": owner,
            "lease": now() + timedelta(seconds=lease_seconds),
            "started": now(),
            "attempts": Job.attempts + 1,
            "progress": 0,
        }
        with self.database.writing() as session:
            _give_back(session, Job.owner.is_distinct_from(owner) & _let_pass())
            chosen = oldest.with_for_update(skip_locked=True).scalar_subquery()
            taking = update(Job).where(Job.number == chosen).values(values).returning(Job)
            while (job := session.scalar(taking)) is not None and (why := wrong(job)):
                failed = {
                    "status": FAILED,
                    "error_type": "server_error",
                    "error_message": sentence(job, why),
                }
                failed |= {"owner": None, "lease": None, "ended": now()}
                session.execute(update(Job).where(Job.number == job.number).values(failed))
                self._tell(job, why)
            return job

    def renew(self, owner: str, ids: Collection[str], lease_seconds: float) -> None:
        """Make the leases of an owner's jobs end so many seconds from now; those it lost stay lost."""
        lease = now() + timedelta(seconds=lease_seconds)
        with self.database.writing() as session:
            session.execute(update(Job).where(_claimed(owner, ids)).values(lease=lease))

    def tell_progress(self, job_id: str, owner: str, percent: int) -> None:
        """Note how much of a video is drawn, 0 to 100, if its claim holds."""
        with self.database.writing() as session:
            session.execute(update(Job).where(_claimed(owner, [job_id])).values(progress=percent))

    def held(self, owner: str) -> set[str]:
        """Ids of the jobs that an owner's claims still hold: neither cancelled nor taken over."""
        with self.database.reading() as session:
            found = session.scalars(select(Job.id).where(Job.status == RUNNING, Job.owner == owner))
            return {id for id in found if isinstance(id, str)}  # pyright: ignore[reportUnnecessaryIsInstance]

    def finish(self, job_id: str, owner: str, files: list[dict[str, Any]]) -> bool:
        """Say that a job's images are stored. False: the claim is lost, and nothing was changed."""
        return self._end(job_id, owner, status=FINISHED, files=files)

    def fail(self, job_id: str, owner: str, message: str, type: str) -> bool:
        """Say why a job cannot be done. False: the claim is lost, and nothing was changed.

        Its images no longer count for its key's day, unless a filter refused them.
        """
        message = message.replace("\0", "")  # which no text of PostgreSQL can hold
        return self._end(job_id, owner, status=FAILED, error_message=message, error_type=type)

    def release(self, owner: str, ids: Collection[str]) -> None:
        """Put jobs back that were stopped through no fault of theirs; the attempt does not count."""
        values = {"status": QUEUED, "owner": None, "lease": None, "attempts": Job.attempts - 1}
        with self.database.writing() as session:
            session.execute(update(Job).where(_claimed(owner, ids)).values(values))

    def cancel(self, job_id: str, key_id: str | None, *, video: bool = False) -> bool:
        """Cancel a waiting or running job of that key; its server sees it in `held`. False: too late.

        video: as for `get`.
        """
        if not ID.fullmatch(job_id):
            return False
        mine = _owned(key_id, video) & (Job.id == job_id) & Job.status.in_((QUEUED, RUNNING))
        values = {"status": CANCELLED, "owner": None, "lease": None, "ended": now()}
        with self.database.writing() as session:
            return bool(session.scalar(update(Job).where(mine).values(values).returning(Job.number)))

    def delete(self, job_id: str, key_id: str | None, delete_files: Callable[[str], None]) -> bool:
        """Delete a video of that key, whatever its state; its server sees it in `held`. False: there is none.

        delete_files: takes the id, with which the names of all its files begin. It is called before the row
        goes: if the process is killed between, the video is cancelled, and can be deleted again.
        """
        self.cancel(job_id, key_id, video=True)
        if self.get(job_id, key_id, video=True) is None:
            return False
        delete_files(job_id)
        with self.database.writing() as session:
            gone = delete(Job).where(_owned(key_id, True), Job.id == job_id).returning(Job.number)
            return session.scalar(gone) is not None

    def exists(self, job_id: str) -> bool:
        """Return whether there is a job of that id, whosever it is."""
        with self.database.reading() as session:
            return session.scalar(select(Job.number).where(Job.id == job_id)) is not None

    def recover(self, owner: str) -> int:
        """At a start: put back what this owner ran when it was killed, and what others let pass.

        A job that was started MAX_ATTEMPTS times fails instead. Returns how many wait again.
        """
        with self.database.writing() as session:
            return _give_back(session, (Job.owner == owner) | _let_pass())

    def delete_before(self, time: datetime, delete_image: Callable[[str], None]) -> int:
        """Delete the jobs that ended before a time, with their images. Returns how many.

        delete_image: takes a name in the store, which may not be there. It is called before the rows go:
        if the process is killed between, the next call deletes what is left. Damaged rows stay.
        """
        deleted, last = 0, 0
        while jobs := self._ended_before(time, last):
            last = jobs[-1].number
            jobs = [job for job in jobs if not self._tell(job, wrong(job))]
            for job in jobs:
                for name in job.result_names() + job.input_names():
                    delete_image(name)
            with self.database.writing() as session:
                session.execute(delete(Job).where(Job.number.in_([job.number for job in jobs])))
            deleted += len(jobs)
        return deleted

    def unused(self, names: Iterable[str]) -> list[str]:
        """Return those of some names in the store that begin as a job's do, and are not of any job."""
        by_job: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            if ID.match(name):
                by_job[name[: len(new_job_id())]].append(name)
        ids = [*by_job]
        for first in range(0, len(ids), _AT_ONCE):
            with self.database.reading() as session:
                for job in session.scalars(select(Job).where(Job.id.in_(ids[first : first + _AT_ONCE]))):
                    if self._tell(job, wrong(job)):  # any of them may be its own
                        del by_job[job.id]
                        continue
                    used = {*job.result_names(), *job.input_names()}
                    by_job[job.id] = [name for name in by_job[job.id] if name not in used]
        return [name for found in by_job.values() for name in found]

    def ping(self) -> None:
        """Return if the database answers. Raises StorageError."""
        with self.database.reading() as session:
            session.scalar(select(Job.number).limit(1))

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def _end(self, job_id: str, owner: str, **values: Any) -> bool:
        values |= {"owner": None, "lease": None, "ended": now()}
        with self.database.writing() as session:
            ended = update(Job).where(_claimed(owner, [job_id])).values(values).returning(Job)
            job = session.scalar(ended)
            if job is not None and job.status == FAILED and job.error_type != RefusedError.__name__:
                _refund(session, job)
            return job is not None

    def _ended_before(self, time: datetime, last: int) -> list[Job]:
        old = select(Job).where(Job.ended < time, Job.number > last).order_by(Job.number)
        with self.database.reading() as session:
            return [*session.scalars(old.limit(100))]

    def _sound(self, job: Job) -> Job:
        """Return the job; of a damaged row a failed job that says so."""
        why = wrong(job)
        if not self._tell(job, why):
            return job
        failed = {"status": FAILED, "error_type": "server_error", "error_message": sentence(job, why)}
        failed |= {"body": {}} if job.kind == VIDEO else {}
        return mended(job, **failed, kind=job.kind if job.kind in KINDS else KINDS[0], pictures=0, files=[])

    def _tell(self, job: Job, why: str) -> bool:
        """Return whether something is wrong with a job's row; log it the first time."""
        if why and job.number not in self._told:
            self._told.add(job.number)
            log.warning("%s It is row %d of jobs in %s.", sentence(job, why), job.number, self.database.name)
        return bool(why)


def _owned(key_id: str | None, video: bool) -> ColumnElement[bool]:
    return (Job.key_id == key_id) & (Job.kind == VIDEO if video else Job.kind != VIDEO)


def _claimed(owner: str, ids: Collection[str]) -> ColumnElement[bool]:
    return (Job.status == RUNNING) & (Job.owner == owner) & Job.id.in_([*ids])


def _let_pass() -> ColumnElement[bool]:
    """Return the condition of jobs whose lease has ended, or makes no sense."""
    return or_(Job.lease < now(), Job.lease.is_(None), Job.lease > now() + _LONGEST_LEASE)


def _refund(session: Session, job: Job) -> None:
    """Take a job's images from what its key made on the day that it was accepted."""
    if job.key_id is None or wrong(job):
        return
    usage = session.get(KeyUsage, (job.key_id, job.created.date()), with_for_update=True)
    if usage is not None and not damage(usage):
        usage.pictures = max(0, usage.pictures - job.pictures)


def _give_back(session: Session, lost: ColumnElement[bool]) -> int:
    """Put running jobs whose claim is lost back into the queue, or fail them; return the number put back."""
    lost &= Job.status == RUNNING
    nobody = {"owner": None, "lease": None}
    message = (
        f"The server stopped {MAX_ATTEMPTS} times while it drew this: the job will not be retried. "
        "Ask for a smaller size, or for fewer images or frames."
    )
    given_up = {"status": FAILED, "ended": now(), "error_type": "server_error", "error_message": message}
    spent = update(Job).where(lost, Job.attempts >= MAX_ATTEMPTS).values(nobody | given_up)
    for job in session.scalars(spent.returning(Job)).all():
        _refund(session, job)
    again = update(Job).where(lost).values(nobody | {"status": QUEUED}).returning(Job.number)
    return len(session.scalars(again).all())
