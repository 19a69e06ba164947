"""A job's row: what was asked for, how it stands, the names of its files, and what in it makes no sense."""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from sanakit.clips.counts import as_rate
from sanakit.errors import SettingsError
from sanakit.pipelines.request import MAX_IMAGES
from sanakit.serve.jobs.clip_files import MEDIA_TYPES
from sanakit.serve.jobs.columns import damage, mended
from sanakit.serve.jobs.schema import Base

QUEUED, RUNNING, FINISHED, FAILED, CANCELLED = "queued", "running", "finished", "failed", "cancelled"
INPUTS = ("image", "mask")  # entries of a body that name images in the store
CONTROL = "control"  # the entry whose elements do so, each in its own entry "image"
VIDEO = "video"  # the kind of a job that makes a clip; all others make images
UPSCALE = "upscale"  # the entry of images that are enlarged after drawing: times each side
FORMAT, TOLD = "format", "warnings"  # entries of a video's body beside its arguments
KINDS, STATUSES = ("generation", "edit", VIDEO), (QUEUED, RUNNING, FINISHED, FAILED, CANCELLED)

# Entries that a video's body must have, by the kind of their values.
_OF_VIDEOS = {
    **{"model": str, "prompt": str, "rate": str, FORMAT: str, TOLD: list},
    **{"frames": int, "width": int, "height": int},
}
ID = re.compile(r"job_[0-9a-f]{32}")


class Job(Base):
    """One accepted request. Objects are copies: they do not change when the database does."""

    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(primary_key=True)  # in order of acceptance
    id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]  # one of KINDS
    # Arguments of Engine.check or ClipEngine.check, its seed fixed; INPUTS are names in the store. UPSCALE,
    # FORMAT and TOLD are for what comes after.
    body: Mapped[dict[str, Any]]
    key_id: Mapped[str | None] = mapped_column(index=True)  # whose it is; None: made without a key
    pictures: Mapped[int]  # that it makes; of a video: that it counts as
    status: Mapped[str] = mapped_column(default=QUEUED, index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    progress: Mapped[int] = mapped_column(default=0)  # percent of a running video
    owner: Mapped[str | None] = mapped_column(default=None)  # while running
    lease: Mapped[datetime | None] = mapped_column(default=None)  # while running: the claim's end
    created: Mapped[datetime]
    started: Mapped[datetime | None] = mapped_column(default=None)
    ended: Mapped[datetime | None] = mapped_column(default=None, index=True)
    files: Mapped[list[dict[str, Any]]] = mapped_column(default=list)  # of a finished one, by the runner
    error_type: Mapped[str | None] = mapped_column(default=None)
    error_message: Mapped[str | None] = mapped_column(default=None)

    def result_names(self) -> list[str]:
        """Names in the store of the images or the clip it makes: the same ones whenever it runs."""
        if self.kind == VIDEO:
            return [f"{self.id}-{VIDEO}.{self.body[FORMAT]}"]
        return [f"{self.id}-{index}.png" for index in range(self.pictures)]

    def input_names(self) -> list[str]:
        """Names in the store of the images it was given: to start from, then to be steered by."""
        named = [self.body[field] for field in INPUTS if self.body.get(field)]
        return named + [one["image"] for one in self.body.get(CONTROL) or ()]


def new_job_id() -> str:
    """Return an id that nobody can guess: 128 random bits."""
    return f"job_{secrets.token_hex(16)}"


def wrong(job: Job) -> str:
    """Return what makes no sense in a job's row; empty if all of it does."""
    if found := damage(job):
        return found
    names, controls = [job.body.get(field) for field in INPUTS], job.body.get(CONTROL)
    if not ID.fullmatch(job.id):
        return "id is not a job's id"
    if job.kind not in KINDS or job.status not in STATUSES:
        return f"kind is not one of {', '.join(KINDS)}, or status not one of {', '.join(STATUSES)}"
    if job.kind != VIDEO and job.pictures > MAX_IMAGES:
        return f"{Job.pictures.key} is above {MAX_IMAGES}"
    if controls is not None:
        if not isinstance(controls, list) or not all(isinstance(one, dict) for one in controls):
            return "body has control images that are not objects"
        names += [one.get("image", 0) for one in controls]
    if job.kind == VIDEO and not _is_video(job.body):
        return "body is not that of a video"
    if not all(name is None or isinstance(name, str) for name in names):
        return "body names an image by something that is not a text"
    if not all(_is_file(file) for file in job.files):
        return "files has an entry without an image's name and settings"
    return ""


def sentence(job: Job, why: str) -> str:
    """Return what is told of a job in whose row something makes no sense."""
    named = mended(job).id or f"of row {job.number}"
    return f"The server's database is damaged at the job {named} ({why}): ask for its images again."


def _is_video(body: dict[str, Any]) -> bool:
    if not all(isinstance(body.get(name), kind) for name, kind in _OF_VIDEOS.items()):
        return False
    try:
        as_rate(body["rate"])
    except SettingsError:
        return False
    return body[FORMAT] in MEDIA_TYPES and all(isinstance(note, str) for note in body[TOLD])


def _is_file(file: dict[str, Any]) -> bool:
    warnings: Any = file.get("warnings", [])
    told = isinstance(warnings, list) and all(isinstance(one, str) for one in warnings)
    return told and isinstance(file.get("name"), str) and isinstance(file.get("metadata"), dict)
